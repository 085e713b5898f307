"""The page of a workload study in a real browser: widths, themes, and that it loads nothing.

`make test-browser` runs this file with a Chromium of the system, or with Playwright's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_chromium import DESKTOP, NARROW, PHONE, chromium, visited
from made_calls import made

from trimode.integrations.workload.show.page import render

pytestmark = pytest.mark.browser
HOSTILE = "</script><img src=x onerror=alert(1)>\"'`${1}<!--"
LONG = "a_step_with_a_name_that_has_no_place_to_break_a_line_" * 3


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module", params=["measure", LONG, HOSTILE], ids=["plain", "long", "hostile"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("workload") / "page.html"
    path.write_text(render(made(request.param)), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE, NARROW], ids=["desktop", "phone", "narrow"])
def test_nothing_sticks_out_nothing_is_fetched_and_nothing_complains(
    browser: Any, file: Path, size: tuple[int, int], scheme: str
) -> None:
    found = visited(browser, file, size, scheme)
    assert found.sticks_out(size[0]) == []
    found.page.click("details > summary")
    found.page.mouse.wheel(0, 10**6)
    found.page.click("#theme")
    assert found.requests == [file.as_uri()]
    assert found.complaints == []
    found.page.context.close()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_mark_tells_its_figures(browser: Any, file: Path, size: tuple[int, int]) -> None:
    found = visited(browser, file, size, "light")
    mark = found.page.locator(".mark .dot").first
    found.settle(mark)
    mark.hover()
    assert found.tip() == found.page.locator(".mark").first.get_attribute("data-tip")
    found.page.context.close()


@pytest.mark.parametrize("size", [DESKTOP, PHONE, NARROW], ids=["desktop", "phone", "narrow"])
def test_labels_of_an_axis_do_not_touch(browser: Any, file: Path, size: tuple[int, int]) -> None:
    found = visited(browser, file, size, "light")
    touching = """() => [...document.querySelectorAll(".ticks")].flatMap(row => {
      const boxes = [...row.children].map(one => [one.textContent, one.getBoundingClientRect()]);
      return boxes.slice(1).filter(([_, box], at) => box.left < boxes[at][1].right).map(([text]) => text);
    })"""
    assert found.page.evaluate(touching) == []
    found.page.context.close()
