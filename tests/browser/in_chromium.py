"""Chromium without a window, a page in it, and what sticks out of a page; shared by tests of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final

DESKTOP, PHONE, NARROW = (1280, 900), (390, 844), (320, 568)
NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
OVERFLOWING: Final = """
() => [...document.querySelectorAll("body *")].filter(one =>
  !one.closest(".scroll *, .skip, svg") && one.getBoundingClientRect().width > 0
  && one.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5
).map(one => one.outerHTML.slice(0, 120))
"""
"""What stands out of the page on the right, save what scrolls in a box of its own."""


@contextmanager
def chromium() -> Generator[Any]:
    """Yields a running browser. `TRIMODE_BROWSER` names another program than the first that is found."""
    found = os.environ.get("TRIMODE_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    with import_module("playwright.sync_api").sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found)
        yield running
        running.close()


@dataclass
class Visit:
    """A page with everything that it fetched and everything that the browser complained of."""

    page: Any
    requests: list[str] = field(default_factory=list[str])
    complaints: list[str] = field(default_factory=list[str])

    def listen(self) -> Visit:
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        return self

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def focused(self, script: str = "") -> Any:
        return self.page.evaluate(f"() => document.activeElement{script}")

    def tip(self) -> str | None:
        """What the tip says, None while it is hidden."""
        shown = self.page.locator("#tip")
        return shown.text_content() if shown.is_visible() else None

    def settle(self, mark: Any) -> None:
        """Scrolls there first: what scrolls under the pointer hides the tip, as it should."""
        mark.scroll_into_view_if_needed()
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def sticks_out(self, width: int) -> list[str]:
        """What stands out of a window of that width, the page itself first."""
        wide = self.page.evaluate("() => document.documentElement.scrollWidth")
        found: list[str] = self.page.evaluate(OVERFLOWING)
        return found if wide == width else [f"the page is {wide} wide", *found]

    def unfold(self) -> None:
        """Every call, and everything that folds inside of it."""
        self.page.click("#unfold")
        folded = self.page.locator("details:not([open]) > summary")
        while folded.count():
            folded.first.click()


def visited(
    browser: Any, file: Path, size: tuple[int, int], scheme: str, *, script: bool = True, at: str = ""
) -> Visit:
    """Opens a page from disk. Its context is the page's `context`."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, java_script_enabled=script
    )
    found = Visit(context.new_page()).listen()
    found.page.goto(file.as_uri() + at)
    return found
