"""The picture of README.md: one call of its example, as the report shows it.

    make test-browser                                # once: Playwright, and a Chromium of the machine or its own
    python scripts/pictures/readme_call.py           # writes docs/images/call.png

Runs the example, renders its audit file and takes the picture of one unfolded call, with the tip of its first rejection
where it has one.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH = 1120
"""Pixels: the text of the example in one line, and a page on PyPI that shows it whole."""


def report(folder: Path) -> Path:
    """The example of README.md run in `folder`, and its audit file as a page."""
    found = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    if found is None:
        raise SystemExit("README.md has no Python block")
    (folder / "example.py").write_text(found[1], encoding="utf-8")
    page = folder / "report.html"
    for command in (["example.py"], ["-m", "trimode", "audit", "report", "audit.jsonl", "-o", page.name]):
        subprocess.run([sys.executable, *command], cwd=folder, check=True)
    return page


def picture(page: Path, call: int, out: Path) -> None:
    """Call number `call` of the page, unfolded, with what is shown of its first rejected drafts."""
    browser = os.environ.get("TRIMODE_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    with import_module("playwright.sync_api").sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser)
        view = running.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        view.goto(f"{page.as_uri()}#call-{call}")
        rejections = view.locator(f"#call-{call} .text button.lost")
        if rejections.count():
            rejections.first.hover()
        box = view.locator(f"#call-{call}").bounding_box()
        view.screenshot(path=str(out), clip={**box, "x": 0, "width": WIDTH})
        running.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--call", type=int, default=3, help="which call of the example; linear_spec if not given")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "call.png")
    chosen = parser.parse_args()
    with TemporaryDirectory() as folder:
        picture(report(Path(folder)), chosen.call, chosen.out)
    print(f"{chosen.out}: {chosen.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
