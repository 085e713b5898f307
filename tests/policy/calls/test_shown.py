"""What people see of engines, steps, results and sessions: one line each, tapes in notebooks, and what is logged."""

# A notebook calls `_repr_html_`.
# pyright: reportPrivateUsage=false
from __future__ import annotations

import logging
import pickle
import re
from copy import deepcopy
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest

import trimode as tm
from trimode.engine.result import DecodeResult, Round
from trimode.policy.audit import EMPTY, pieces, provenance_codes, record_round
from trimode.policy.audit.origins import Piece
from trimode.policy.calls import Engine, Result, session_html
from trimode.policy.calls.result import CALLS
from trimode.policy.telemetry.token_tape import Spelling, tape
from trimode.testing import FakeEngine

HOSTILE = "</div><img src=x onerror=alert(1)>\"'&amp;"


def weather(city: str) -> str:
    """The forecast for a city."""
    return city


@tm.step("tool_call", tools=[weather], mode="linear_spec", max_tokens=60)
def act(goal: str) -> tm.ToolCall:
    """{goal}"""
    ...


@tm.step
async def say(text: str) -> str:
    """Say {text}"""
    ...


@tm.step("prose", mode="ar")
def talk(text: str) -> str:
    return tm.ask(text)


@pytest.fixture(scope="module")
def acted(reference: Engine) -> Result[tm.ToolCall]:
    with tm.session(reference):
        return act.result("Weather in Rome")


class Shown(HTMLParser):
    """The tags of a fragment, each closed, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words, self._open = "", list[str]()
        self.feed(source)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_each_is_one_line_that_helps(reference: Engine, acted: Result[tm.ToolCall]) -> None:
    assert repr(act) == (
        "<step act(goal: str) -> tm.ToolCall: tool_call, tools weather, mode='linear_spec', max_tokens=60>"
    )
    assert repr(say.options(seed=3)) == "<async step say(text: str) -> str: prose, seed=3>"
    assert repr(reference).startswith("<Engine trimode-reference on cpu, float32, ")
    assert "rows checked to agree" in repr(reference)
    assert f"context of {reference.context} tokens>" in repr(reference)
    counts = f"{acted.stats.output_tokens} tokens in {acted.stats.forward_passes} passes"
    assert repr(acted) == f"<Result {acted.text!r}: step 'act', linear_spec, {counts}, valid>"
    assert repr(replace(acted, text="x" * 61)).startswith(f"<Result '{'x' * 57}...': step 'act', ")
    cut = replace(acted, text="a\nb", valid=None, notes=("one", "two"))
    assert repr(cut).startswith("<Result 'a\\nb': ")
    assert repr(cut).endswith("passes, 2 notes>")
    fake = FakeEngine({"act": "x"})
    assert repr(fake) == "<FakeEngine answering act; 0 calls so far>"
    with tm.session(reference) as session:
        act("x")
    assert repr(session).startswith("<Session 1 steps, ")
    assert all("\n" not in repr(one) for one in (act, say, reference, acted, cut, fake, session))


def test_a_value_is_what_the_step_returns(reference: Engine, acted: Result[tm.ToolCall]) -> None:
    assert isinstance(acted.value, tm.ToolCall)
    result = reference.generate("The table is", max_tokens=5)
    assert result.value == result.text != ""


def test_the_tape_spells_the_text_token_by_token(acted: Result[tm.ToolCall]) -> None:
    shown = Shown(acted._repr_html_())
    assert f"{acted.text}{EMPTY}" in re.sub("\u2212[0-9]+", "", shown.words)
    rejected = [int(number) for number in re.findall("\u2212([0-9]+)", shown.words)]
    assert rejected == [len(made.rejected) for made in acted.trace if made.rejected]
    assert acted.summary in shown.words
    origins = {code for made in acted.trace for code in _codes(acted, made)}
    names = {"a": "accepted", "c": "corrected", "s": "own choice", "f": "forced", "r": "repaired", "b": "budget"}
    legend = shown.words.rsplit("valid", 1)[1]
    assert {code for code, name in names.items() if name in legend} == origins
    assert not {tag for tag, _ in shown.tags} & {"script", "style", "img", "link"}
    assert not [name for _, given in shown.tags for name in given if name not in ("style", "title")]
    assert not re.search(r"url\(|//", acted._repr_html_())


def _codes(result: Result, made: Round) -> str:
    return provenance_codes(record_round(made, "", result.spelling.decoders))


def test_every_token_has_its_colour(acted: Result[tm.ToolCall]) -> None:
    found = re.findall(r'<span title="[^"]*" style="([^"]*)">([^<]*)</span>', acted._repr_html_())
    records = acted.spelling.records(acted.trace)
    every = [piece for at, record in enumerate(records) for piece in pieces(at, record)]
    expected = [(piece.origin, piece.text) for piece in every if isinstance(piece, Piece)]
    assert [unescape(text) for _, text in found[: len(expected)]] == [text for _, text in expected]
    underlined = {"a": "solid", "c": "dashed", "f": "dotted", "r": "double", "b": "wavy"}
    for (origin, _), (style, _) in zip(expected, found, strict=False):
        assert underlined.get(origin, "") in style
        assert ("underline" in style) == (origin in underlined)


def test_hostile_text_stays_text(acted: Result[tm.ToolCall]) -> None:
    spelled = Spelling((lambda ids: HOSTILE * len(ids), lambda _: HOSTILE))
    plan = replace(acted.plan, context=replace(acted.plan.context, name=HOSTILE))
    hostile = replace(acted, text=HOSTILE, spelling=spelled, notes=(HOSTILE, "\u202eturned"), plan=plan)
    for source in (hostile._repr_html_(), session_html(HOSTILE, [hostile])):
        shown = Shown(source)
        assert "img" not in {tag for tag, _ in shown.tags}
        assert HOSTILE in shown.words
        assert "\u202e" not in source


def test_a_pickled_result_shows_its_text_without_colours(acted: Result[tm.ToolCall]) -> None:
    for other in (pickle.loads(pickle.dumps(acted)), deepcopy(acted)):
        assert other == acted
        assert other.spelling.decoders is None
        shown = Shown(other._repr_html_())
        assert acted.text in shown.words
        assert "".join(_codes(other, made) for made in acted.trace) in re.sub("\u2212[0-9]+", "", shown.words)


def test_what_is_left_out_is_said(reference: Engine, acted: Result[tm.ToolCall]) -> None:
    whole = sum(len(made.tokens) for made in acted.trace)
    first = len(acted.trace[0].tokens)
    assert first < whole
    assert f"{whole - first} more tokens are not shown" in tape(acted.trace, acted.spelling, acted.text, first)
    assert "not shown" not in tape(acted.trace, acted.spelling, acted.text, whole)
    with tm.session(reference) as session:
        act("x")
        act("y")
    shown = Shown(session._repr_html_()).words
    assert shown.count("step 'act'") == 2
    assert "later steps" not in shown
    session.results.extend([("tool_call", acted)] * CALLS)
    shown = Shown(session._repr_html_()).words
    assert shown.count("step 'act'") == CALLS
    assert "2 later steps are not shown" in shown


def test_logs_say_what_was_loaded_and_why_modes_were_chosen(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="trimode"), tm.Engine.load(kernels="torch") as engine:
        loaded = said(caplog, logging.INFO)
        assert len(loaded) == 1
        assert re.fullmatch(
            r"loaded <Engine trimode-reference on cpu, float32, torch \(.*\), rows .*> in \d+\.\d s", loaded[0]
        )
        assert said(caplog, logging.DEBUG) == []
        with tm.session(engine), tm.using(mode="quadratic_spec"):
            act.options(max_tokens=40)("x")
        engine.generate("x", max_tokens=2, mode="ar")
        engine.choice(["a", "b"], "x")
    chosen = said(caplog, logging.DEBUG)
    assert chosen[:2] == [
        "step 'act' (tool_call): quadratic_spec: using(mode='quadratic_spec')",
        "step 'generate' (prose): ar: call argument",
    ]
    assert len(chosen) == 3
    assert chosen[2].startswith("step 'choice' (choice): ")


def said(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "trimode" and record.levelno == level]


def test_logs_say_where_a_call_changed_its_mode(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine({"talk": "hello there"})
    written = FakeEngine._written

    def switching(*given: Any) -> DecodeResult:
        found = written(*given)
        first, second, *rest = found.rounds
        return replace(found, rounds=(first, replace(second, mode="diffusion", switch="it pays"), *rest))

    monkeypatch.setattr(FakeEngine, "_written", switching)
    with caplog.at_level(logging.DEBUG, logger="trimode"), tm.session(engine):
        talk("x")
    first, second, *_ = said(caplog, logging.DEBUG)
    assert first.startswith("step 'talk' (prose): ar: ")
    assert second == "step 'talk' (prose): ar > diffusion: it pays"


def test_nothing_is_printed_where_nobody_asked_for_logs() -> None:
    handlers = logging.getLogger("trimode").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)
