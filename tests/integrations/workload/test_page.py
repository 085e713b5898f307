"""The page of a study: what stands on it, where marks stand, and nothing that a browser could run or fetch."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_calls import Echo, call, made, still

from trimode.integrations.workload.calls import Answer, Log
from trimode.integrations.workload.readings import Store
from trimode.integrations.workload.scoring.intervals import Interval
from trimode.integrations.workload.show.page import render
from trimode.integrations.workload.show.plots import amounts, ratios, shares
from trimode.integrations.workload.study import Plan, Study, studied

HOSTILE = "</script><img src=x onerror=alert(1)>\"'`${1}<!--"


@dataclass
class Page(HTMLParser):
    """Tags, words, and the cells of tables."""

    source: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    words: str = ""
    rows: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._tag, self._in_table = "", False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._tag = tag
        if tag == "table":
            self._in_table = True
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""
        if tag == "table":
            self._in_table = False

    def handle_data(self, data: str) -> None:
        if self._tag in ("script", "style"):
            return
        self.words += data
        if self._in_table and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def study() -> Study:
    return made()


@pytest.fixture(scope="module")
def page(study: Study) -> Page:
    return Page(render(study))


def test_what_moves_stands_with_its_run_and_what_stays_with_its_reason(study: Study, page: Page) -> None:
    moves, stays = ({one.group: one for one in study.decisions}[name] for name in ("measure", "guess"))
    (move,) = [row for row in page.rows if row[:1] == ["measurejson"] and "local:linear_spec" in row]
    assert "-56 % (-57 to -55)" in move
    assert move[-1] == moves.reason
    (stay,) = [row for row in page.rows if row and row[-1] == stays.reason]
    assert stay[0] == "guessjson"
    assert "undecided" in stays.reason


def test_promises_stand_beside_what_was_measured(study: Study, page: Page) -> None:
    (row,) = [row for row in page.rows if "kept" in row]
    (check,) = study.checks
    assert check.quality is not None
    assert row[:4] == ["measure", "local:linear_spec", "kept", str(check.quality.n)]
    assert "✓ Promises kept" in page.words
    assert "1 of 1 promise kept on held-out calls" in page.words


def test_every_measure_is_in_the_table(study: Study, page: Page) -> None:
    shown = [row for row in page.rows if len(row) == 12 and row[1] in study.runs]
    assert len(shown) == len(study.measures) == 6
    for row, one in zip(shown, study.measures, strict=True):
        assert row[2] == str(one.n)
        assert row[4].startswith(f"{one.quality.value:.2f} (")


def test_parts_of_agreement_that_no_group_has_have_no_column(page: Page) -> None:
    (heads,) = [row for row in page.rows if row[:2] == ["group", "run"] and "valid" in row]
    assert [one for one in heads if one in ("names", "arguments", "fields", "prose")] == ["fields"]


def test_marks_stand_where_their_values_are(study: Study, page: Page) -> None:
    marks = [given for tag, given in page.tags if tag == "span" and given.get("class") == "mark"]
    tips = [given["data-tip"] for given in marks]
    assert len([tip for tip in tips if re.match(r"local:\w+: \d\.\d\d \(", tip)]) >= 4
    dots = [
        given.get("style", "") for tag, given in page.tags if tag == "i" and given.get("class", "").startswith("dot n")
    ]
    placed = [float(style.removeprefix("left:").removesuffix("%")) for style in dots if style]
    expected = [100 * one.quality.value for one in study.measures if one.run != "recorded"]
    assert placed[: len(expected)] == pytest.approx(expected, abs=0.001)
    assert all(0 <= place <= 100 for place in placed)


def test_nothing_runs_or_is_fetched_but_the_page_itself(page: Page) -> None:
    source = page.source
    script = source.split("<script>")[1].split("</script>")[0]
    digest = b64encode(sha256(script.encode()).digest()).decode()
    policy = next(given["content"] for _, given in page.tags if given.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert f"'sha256-{digest}'" in policy
    assert not re.search(r"https?://|@import|url\(", source)
    assert not [given for _, given in page.tags if {"src", "onload", "onclick", "onerror"} & set(given)]
    assert [given["href"] for _, given in page.tags if "href" in given] == ["#moves"]
    assert "color-scheme: light dark" in source


def test_hostile_names_are_text() -> None:
    found = Page(render(made(HOSTILE, 4)))
    assert not [tag for tag, _ in found.tags if tag == "img"]
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert "onerror=alert(1)" in found.words


def test_a_label_holds_the_beginning_of_a_family_alone() -> None:
    system = "You sell rooms. " * 10
    messages = ({"role": "system", "content": system}, {"role": "user", "content": "xyzzy"})
    found = Page(render(made("", 4, messages=messages, answer=Answer("plugh"), kind="prose", schema=None)))
    assert "You sell rooms." in found.words
    assert not {"xyzzy", "plugh"} & set(found.words.split())
    assert found.words.count("You sell rooms.") < 30


def test_a_study_without_anything_to_say_is_a_page() -> None:
    found = studied(Log(names=("l",), calls=(call(0, answer=None),)), [Echo("local:ar")], True, Plan(), Store(), still)
    words = Page(render(found)).words
    assert "no answer: there is nothing to agree with" in words
    assert "none of its calls could be measured" in words


finite = st.floats(1e-6, 1e6)


@given(st.lists(st.tuples(finite, finite, finite).map(sorted), min_size=1, max_size=5))
def test_axes_keep_order_and_stay_on_the_page(values: list[list[float]]) -> None:
    made = [Interval(value, low, high, 1) for low, value, high in values]
    for axis in (ratios(made), amounts(made), shares()):
        places = [place for place, _ in axis.ticks]
        assert places == sorted(places)
        assert places[0] == pytest.approx(0, abs=1e-6)
        assert places[-1] == pytest.approx(100)
        assert len(axis.ticks) <= 7
        for one in made:
            mark = axis.mark(0, one, "")
            assert 0 <= mark.left <= mark.at <= mark.left + mark.width + 1e-9 <= 100 + 1e-6


def test_an_endless_limit_is_cut() -> None:
    one = Interval(1.0, 0.5, float("inf"), 1)
    assert ratios([one]).mark(0, one, "").cut
    assert not ratios([one]).mark(0, Interval(1.0, 0.6, 1.5, 1), "").cut
