"""The report page in a real browser without a window: keys, tips, widths, themes, and that it loads nothing.

`make test-browser` runs this file with a Chromium of the system, or with Playwright's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from in_chromium import DESKTOP, NARROW, PHONE, Visit, chromium, visited

from trimode.engine.errors import RequestError
from trimode.integrations.report.page import render
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.trail import AuditFile

pytestmark = pytest.mark.browser

Recorded = Callable[..., CallRecord]
HOSTILE: Final = "</script><img src=x onerror=alert(1)>\"'`${1}<!--"

CONTRASTS: Final = """
(selectors) => selectors.map(selector => {
  const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = color => {
    brush.clearRect(0, 0, 1, 1); brush.fillStyle = color; brush.fillRect(0, 0, 1, 1);
    return [...brush.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const one = document.querySelector(selector);
  let behind = one;
  while (rgba(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
  const [a, b] = [getComputedStyle(one).color, getComputedStyle(behind).backgroundColor].map(rgba).map(light);
  return [selector, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
})
"""
"""WCAG contrast of a selector's first element against the first opaque colour behind it."""

STOPS: Final = """
() => [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex]")].filter(one =>
  one.tabIndex >= 0 && one.getClientRects().length > 0
).length
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def calls(recorded: Recorded) -> list[CallRecord]:
    """Calls of every outcome, with names that no line can hold and markup in them."""
    drafts = recorded("linear_spec", schema=True)
    return [
        replace(drafts, step="act", notes=(HOSTILE, "x" * 300)),
        replace(recorded("diffusion"), step=HOSTILE),
        replace(recorded("ar", seed=3), step="a_step_with_a_name_that_has_no_place_to_break_a_line_" * 3),
        recorded("ar", failed=RequestError("the disk is full")),
        recorded("linear_spec", seed=11).redacted(),
    ]


@pytest.fixture(scope="module")
def file(calls: list[CallRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    trail = AuditFile(folder / "audit.jsonl", content=True)
    for call in calls:
        trail.write(call)
    (folder / "report.html").write_text(render(trail.path)[0], encoding="utf-8")
    return folder / "report.html"


Open = Callable[..., Visit]


@pytest.fixture
def visit(browser: Any, file: Path) -> Iterator[Open]:
    """visit(size=DESKTOP, scheme="light", script=True, at="") -> the page, opened from disk."""
    visits: list[Visit] = []

    def opened(size: tuple[int, int] = DESKTOP, scheme: str = "light", *, script: bool = True, at: str = "") -> Visit:
        visits.append(visited(browser, file, size, scheme, script=script, at=at))
        return visits[-1]

    yield opened
    for one in visits:
        one.page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE, NARROW], ids=["desktop", "phone", "narrow"])
def test_nothing_sticks_out_nothing_is_fetched_and_nothing_complains(
    visit: Open, file: Path, size: tuple[int, int], scheme: str
) -> None:
    found = visit(size, scheme)
    for unfolded in (False, True):
        if unfolded:
            found.unfold()
        assert found.sticks_out(size[0]) == [], f"unfolded: {unfolded}"
    found.page.mouse.wheel(0, 10**6)
    found.page.click("#theme")
    assert found.requests == [file.as_uri()]
    assert found.complaints == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_keys_reach_everything_and_leave_it(visit: Open, calls: list[CallRecord], size: tuple[int, int]) -> None:
    found = visit(size)
    found.unfold()
    stops = found.page.evaluate(STOPS)
    found.page.focus(".skip")
    found.press("Shift+Tab")
    places, seen = list[int](), list[str]()
    for _ in range(stops):
        found.press("Tab")
        places.append(found.page.evaluate("() => [...document.querySelectorAll('*')].indexOf(document.activeElement)"))
        seen.append(found.focused(".outerHTML.slice(0, 200)"))
        assert found.focused(".matches(':focus-visible')"), seen[-1]
    assert places == sorted(set(places)), "in the page's order, each stop once"
    assert seen[0].startswith('<a class="skip"')
    assert sum(one.startswith("<summary") for one in seen) == found.page.locator("summary").count()
    texts = [call for call in calls if any(made.rejected for made in call.rounds)]
    assert sum('class="lost"' in one for one in seen) == len(texts), "one stop a text, however many rejections"
    found.press("Tab")
    assert found.focused(".matches('body, .skip')"), "nothing keeps the focus"


def test_keys_walk_from_rejection_to_rejection(visit: Open, calls: list[CallRecord]) -> None:
    found = visit()
    found.page.locator("#call-1 > summary").focus()
    found.press("Enter")
    assert found.page.locator("#call-1").get_attribute("open") is not None
    found.press("Tab")
    marks = found.page.locator("#call-1 .text button.lost")
    tips = [mark.get_attribute("data-tip") for mark in marks.all()]
    drafts = [len(made.rejected) for made in calls[0].rounds if made.rejected]
    assert [int(tip.split(" of ")[0].rsplit(" ", 1)[-1]) for tip in tips] == drafts
    assert len(tips) > 2

    def at() -> int:
        """Which of the marks has the focus; the tip is its own."""
        (place,) = [number for number, mark in enumerate(marks.all()) if mark.evaluate("one => one.matches(':focus')")]
        assert found.tip() == tips[place]
        return place

    assert at() == 0
    for key, place in (("ArrowRight", 1), ("ArrowDown", 2), ("ArrowLeft", 1), ("ArrowUp", 0)):
        found.press(key)
        assert at() == place
    found.press("ArrowLeft")
    assert at() == 0, "there is none before the first"
    found.press("End")
    assert at() == len(tips) - 1
    found.press("ArrowRight")
    assert at() == len(tips) - 1
    found.press("Escape")
    assert found.tip() is None
    found.press("Shift+Tab", "Tab")
    assert at() == len(tips) - 1, "coming back leads to where one was"
    found.press("Home")
    assert at() == 0
    found.press("Tab")
    assert found.focused(".closest('.text')") is None
    assert found.tip() is None


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_hovering_a_rejection_shows_its_drafts_and_reasons(
    visit: Open, calls: list[CallRecord], size: tuple[int, int]
) -> None:
    found = visit(size)
    found.page.click("#unfold")
    rounds = [made for made in calls[0].rounds if made.rejected]
    marks = found.page.locator("#call-1 .text button.lost").all()
    assert len(marks) == len(rounds)
    for mark, made in zip(marks, rounds, strict=True):
        found.settle(mark)
        mark.hover()
        told = found.tip()
        assert told is not None
        assert f"{len(made.rejected)} of {made.drafted} drafts rejected" in told
        for (_, why), text in zip(made.rejected, made.rejected_text or (), strict=True):
            assert text in told
            assert {"schema": "refused by the schema", "target": "verification", "stop": "over"}[why] in told
        box = found.page.locator("#tip").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size[0]
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= size[1]
    found.page.mouse.move(1, 1)
    assert found.tip() is None
    assert found.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(visit: Open, scheme: str) -> None:
    found = visit(scheme=scheme)
    found.unfold()
    origins = [f".legend .o.{letter}" for letter in "acsfrb"]
    looked = [
        "h1", ".verdict b", ".totals dt", ".remark", "thead th", "#theme b", ".call .step small", ".call .outcome",
        ".more > summary", ".facts dt", "button.lost", ".segments li", "footer p", *origins,
    ]  # fmt: skip
    contrasts = found.page.evaluate(CONTRASTS, looked)
    assert {name: ratio for name, ratio in contrasts if ratio < 4.5} == {}
    bright = found.page.evaluate("() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (bright > 128) == (scheme == "light")


def test_the_theme_is_chosen_by_hand_and_kept(visit: Open) -> None:
    found = visit(scheme="light")

    def theme() -> tuple[str, bool]:
        red = found.page.evaluate("() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
        return found.page.text_content("#theme b"), red > 128

    seen = [theme()]
    for _ in range(3):
        found.page.click("#theme")
        seen.append(theme())
    assert seen == [("auto", True), ("light", True), ("dark", False), ("auto", True)]
    found.page.click("#theme")
    found.page.click("#theme")
    found.page.reload()
    assert theme() == ("dark", False)


def test_a_link_opens_its_call(visit: Open) -> None:
    found = visit(at="#call-3")
    opened = found.page.locator("details.call[open]")
    assert [one.get_attribute("id") for one in opened.all()] == ["call-3"]
    assert opened.locator("> summary").bounding_box()["y"] < DESKTOP[1]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_without_its_script_the_page_still_unfolds(visit: Open, size: tuple[int, int]) -> None:
    found = visit(size, script=False)
    found.page.click("#call-1 > summary")
    assert found.page.locator("#call-1 .text").is_visible()
    assert not found.page.locator("#theme").is_visible()
    assert not found.page.locator("#unfold").is_visible()
    assert not found.page.locator("#filter").is_visible()


def test_search_and_filters_leave_what_fits(visit: Open, calls: list[CallRecord]) -> None:
    found = visit()

    def shown() -> list[str]:
        rows = found.page.locator(".call:visible").all()
        return [row.get_attribute("id") for row in rows]

    every = [f"call-{number}" for number in range(1, len(calls) + 1)]
    assert shown() == every
    assert found.page.text_content("#found") == ""
    found.page.select_option("select[data-facet=mode]", "=diffusion")
    assert shown() == ["call-2"]
    assert found.page.text_content("#found") == f"1 of {len(calls)} calls"
    found.page.select_option("select[data-facet=mode]", "")
    found.page.select_option("select[data-facet=step]", f"={HOSTILE}")
    assert shown() == ["call-2"], "a step with markup in its name is a name"
    found.page.select_option("select[data-facet=step]", "")
    found.page.check("[data-facet=forced]")
    forced = [f"call-{n}" for n, call in enumerate(calls, start=1) if call.counts and call.counts.forced]
    assert shown() == forced
    assert 0 < len(forced) < len(calls)
    found.page.uncheck("[data-facet=forced]")
    found.page.fill("#find", "the DISK is")
    assert shown() == ["call-4"], "words of what unfolds, in letters of any size"
    found.page.fill("#find", "nothing of the kind")
    assert shown() == []
    found.page.fill("#find", "")
    assert shown() == every
    assert found.complaints == []


def test_a_link_shows_a_call_that_was_filtered_out(visit: Open) -> None:
    found = visit()
    found.page.fill("#find", "the disk is full")
    found.page.evaluate("() => { location.hash = '#call-3'; }")
    found.page.wait_for_selector("#call-3[open]")
    assert found.page.input_value("#find") == ""


def test_unfolding_all_leaves_hidden_calls_alone(visit: Open) -> None:
    found = visit()
    found.page.fill("#find", "the disk is full")
    found.page.click("#unfold")
    assert [one.get_attribute("id") for one in found.page.locator("details.call[open]").all()] == ["call-4"]


def test_a_phone_shows_that_the_table_by_kind_goes_on(visit: Open) -> None:
    found = visit(PHONE)
    box = found.page.locator("section[aria-labelledby=kinds] .scroll")
    width, content = box.evaluate("one => [one.clientWidth, one.scrollWidth]")
    assert content > width
    assert "gradient" in box.evaluate("one => getComputedStyle(one).backgroundImage")
    box.evaluate("one => { one.scrollLeft = one.scrollWidth; }")
    kind = found.page.locator("section[aria-labelledby=kinds] tbody th").first
    assert kind.bounding_box()["x"] >= 0, "the kind stays in sight"


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_folded_row_shows_the_beginning_of_its_text(
    visit: Open, calls: list[CallRecord], size: tuple[int, int]
) -> None:
    found = visit(size)
    row = found.page.locator("#call-1 > summary .begin")
    assert row.is_visible()
    assert (calls[0].text or "").startswith(row.text_content().rstrip("…")[:20])
    found.page.click("#call-1 > summary")
    assert not row.is_visible(), "the whole text is below"
