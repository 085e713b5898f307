"""Turns: one output of prose and tool calls, each segment in its own mode, and the same tokens in all exact modes.

The reference checkpoint was never taught to open a call in running text, so the marker is one that it writes anyway.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import trimode as tm
from trimode.policy.audit import read_audit, verify
from trimode.policy.audit.trail import records
from trimode.policy.calls import translator
from trimode.policy.replay.decode_again import replay
from trimode.policy.replay.reasons import explained
from trimode.policy.schema import CallFormat

OFTEN = (
    CallFormat("a\n", "\n.\na\n", "\n."),
    CallFormat(" th[", ", ", "]"),
    CallFormat("e ", "; e ", ";"),
)
"""Formats whose markers the checkpoint writes by chance."""
ASKED = [{"role": "user", "content": "There are 5 boxes with 20 apples in each box. How many apples are there?"}]
ANSWER = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


def calculator(expression: str, note: str = "") -> int:
    """Evaluate one product, such as 3*4."""
    return len(expression + note)


def weather(city: str, days: int = 1) -> str:
    """Tell the weather."""
    return city * days


TOOLS = [calculator, weather]
Write = Callable[[CallFormat], None]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Write:
    """Returns a function that sets how calls are written."""
    return lambda form: monkeypatch.setattr(translator, "call_format", lambda *_: form)


def turn(engine: tm.Engine, **options: Any) -> tm.Result:
    given: dict[str, Any] = {"messages": ASKED, "tools": TOOLS, "max_tokens": 60, "temperature": 1.3, **options}
    return engine.generate(**given)


@pytest.mark.parametrize("form", OFTEN, ids=str)
@pytest.mark.parametrize("choice", ["auto", "none", "required", "weather"])
def test_the_modes_of_segments_change_no_token(
    form: CallFormat, choice: str, reference: tm.Engine, written: Write
) -> None:
    written(form)
    for seed, schema, parallel in product(range(2), (None, ANSWER), (True, False)):
        asked: dict[str, Any] = {"tool_choice": choice, "schema": schema, "parallel_tool_calls": parallel, "seed": seed}
        plain = turn(reference, mode="ar", **asked)
        with tm.using(mode=("linear_spec", "quadratic_spec")[seed % 2]):
            assert turn(reference, **asked).token_ids == plain.token_ids
        assert turn(reference, **asked).token_ids == plain.token_ids, "by the package's table"
        assert plain.calls or choice in ("auto", "none")
        assert not plain.calls or choice != "none"
        assert len(plain.calls) <= 1 or (parallel and choice != "weather")
        assert {call.name for call in plain.calls} <= (
            {"weather"} if choice == "weather" else {"weather", "calculator"}
        )
        assert plain.valid is (True if plain.calls or (schema and choice in ("auto", "none")) else None)
        if schema and not plain.calls:
            assert set(plain.value.value) == {"x"}


def test_auto_talks_and_calls(reference: tm.Engine, written: Write) -> None:
    written(OFTEN[0])
    kinds = {tuple(one.kind for one in turn(reference, tool_choice="auto", seed=seed).segments) for seed in range(12)}
    assert ("prose",) in kinds
    assert any("tool_call" in kind for kind in kinds)


def talkative(engine: tm.Engine) -> tm.Result:
    """Returns the first turn, by seed, with prose, a call and prose again."""
    seeds = SEEDS or range(400)
    for seed in seeds:
        found = turn(engine, tool_choice="auto", seed=seed, max_tokens=110)
        if [part.kind for part in found.segments][:3] == ["prose", "tool_call", "prose"]:
            SEEDS[:] = [seed]
            return found
    raise AssertionError("no such turn among the seeds")


SEEDS: list[int] = []
"""The seed of `talkative`, once it was searched."""


def test_each_segment_is_decoded_in_its_own_mode_and_says_why(reference: tm.Engine, written: Write) -> None:
    written(OFTEN[0])
    table = tm.Policy.from_table(
        {"kinds": {"prose": {"mode": "quadratic_spec"}, "tool_call": {"mode": "linear_spec"}}}, "own"
    )
    with tm.session(reference, policy=table):
        found = talkative(reference)
    assert {(one.kind, one.modes) for one in found.segments} == {
        ("prose", ("quadratic_spec",)),
        ("tool_call", ("linear_spec",)),
    }
    assert {one.reason for one in found.segments} == {
        "quadratic_spec: policy 'own' for prose steps",
        "linear_spec: policy 'own' for tool_call steps",
    }
    assert [one.number for one in found.segments] == sorted(one.number for one in found.segments)
    for before, after in zip(found.segments, found.segments[1:], strict=False):
        assert before.end <= after.start
    for one in found.segments:
        assert one.text in reference.tokenizer.decode(found.token_ids[one.start : one.end])
    assert {run.section for run in found.stats.mode_runs} <= {"prose", "tool_call"}


def test_a_diffused_prose_segment_gives_way_to_an_exact_call(reference: tm.Engine, written: Write) -> None:
    written(OFTEN[0])
    table = tm.Policy.from_table({"kinds": {"prose": {"mode": "diffusion", "exact": False}}}, "own")
    with tm.session(reference, policy=table):
        found = [turn(reference, tool_choice="auto", seed=seed) for seed in range(16)]
    called = [one for one in found if one.calls]
    assert called
    for one in called:
        modes = {part.kind: part.modes for part in one.segments}
        assert modes["prose"] == ("diffusion",)
        assert "diffusion" not in modes["tool_call"]
        assert one.valid


def test_thinking_is_a_segment_of_its_own(reference: tm.Engine, written: Write) -> None:
    written(OFTEN[0])
    found = turn(reference, tool_choice="required", max_thinking_tokens=10, max_tokens=90)
    assert [one.kind for one in found.segments] == ["thinking", "tool_call"]
    assert found.segments[0].text == found.thinking
    assert "</think>" not in "".join(one.text for one in found.segments)
    assert found.calls


@pytest.mark.parametrize("most", range(25, 60, 5))
def test_it_ends_in_its_budget(most: int, reference: tm.Engine, written: Write) -> None:
    written(OFTEN[2])
    for seed in range(6):
        found = turn(reference, tool_choice="auto", seed=seed, max_tokens=most)
        assert len(found.token_ids) <= most
        for part in found.segments:
            assert part.kind == "prose" or part.calls


def test_a_budget_too_small_for_a_required_call_is_refused(reference: tm.Engine) -> None:
    with pytest.raises(tm.BudgetTooSmall):
        turn(reference, tool_choice="required", max_tokens=4)
    assert turn(reference, tool_choice="auto", max_tokens=4).calls == ()


def test_stop_strings_end_prose_and_leave_calls_alone(reference: tm.Engine, written: Write) -> None:
    written(OFTEN[0])
    found = talkative(reference)
    quote = turn(reference, tool_choice="auto", seed=found.seed, max_tokens=110, stop=['"name"'])
    assert quote.token_ids == found.token_ids, "the text stands in a call only"
    last = found.segments[-1].text[-3:]
    cut = turn(reference, tool_choice="auto", seed=found.seed, max_tokens=110, stop=[last])
    assert cut.finish_reason == "stop"
    assert found.text.startswith(cut.text)
    with pytest.raises(tm.RequestError, match="stop strings apply to prose"):
        turn(reference, tool_choice="required", stop=["."])


def pieces(engine: tm.Engine, **options: Any) -> list[tm.StreamEvent]:
    given: dict[str, Any] = {"messages": ASKED, "tools": TOOLS, "max_tokens": 110, "temperature": 1.3, **options}
    return list(engine.stream(**given))


def test_a_stream_says_which_segment_it_is_in_and_what_it_adds_to_calls(reference: tm.Engine, written: Write) -> None:
    for form in OFTEN:
        written(form)
        for seed in range(4):
            events = pieces(reference, tool_choice="auto", seed=seed)
            result = events[-1].result
            assert result is not None
            assert "".join(one.text for one in events if not one.provisional) == result.text
            for part in result.segments:
                said = [one.text for one in events if one.segment and one.segment.number == part.number]
                assert "".join(said) == part.text
            assert list(calls_in(events)) == [(call.name, call.arguments) for call in result.calls]
            ids = [one.call.id for one in events if one.call and one.call.name]
            assert ids == [call.id for call in result.calls]


def calls_in(events: Sequence[tm.StreamEvent]) -> Iterator[tuple[str, Any]]:
    """Yields the calls that deltas add up to."""
    deltas = [one.call for one in events if one.call]
    for index in sorted({delta.index for delta in deltas}):
        own = [delta for delta in deltas if delta.index == index]
        assert [delta.name for delta in own[1:]] == [None] * (len(own) - 1)
        yield str(own[0].name), json.loads("".join(delta.arguments for delta in own))


def test_it_is_recorded_verified_and_replayed(
    reference: tm.Engine, written: Write, tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    written(OFTEN[0])
    path = tmp_path / "audit.jsonl"
    table = tm.Policy.from_table(
        {"kinds": {"prose": {"mode": "diffusion", "exact": False}, "tool_call": {"mode": "linear_spec"}}}, "own"
    )
    talkative(reference)
    with tm.session(reference, trace=f"file:{path}", content=True):
        exact = talkative(reference)
    with tm.session(reference, trace=f"file:{path}", content=True, policy=table):
        turn(reference, tool_choice="auto", max_thinking_tokens=9)
        turn(reference, tool_choice="required", schema=ANSWER)
        turn(reference, tool_choice="auto", schema=ANSWER)
        turn(reference, tool_choice="none")
    assert not [*verify(path)]
    written_down = [*records(read_audit(path))]
    found = [replay(record, reference) for record in written_down]
    assert [one.outcome for one in found] == ["same"] * 5, [one.message for one in found]
    own = next(record for record in written_down if record.call == exact.audit_id)
    begun = [one.section for one in own.rounds if one.section and one.switch]
    assert begun[: len(exact.segments) - 1] == [(part.number, part.kind) for part in exact.segments[1:]]
    decoded = [span for span in spans.get_finished_spans() if span.name.startswith("decode ")]
    kinds = {str(dict(span.attributes or {}).get("trimode.segment.kind")) for span in decoded}
    assert {"prose", "tool_call"} <= kinds


def test_a_segment_in_the_mode_of_the_one_before_is_no_switch(
    reference: tm.Engine, written: Write, tmp_path: Path
) -> None:
    written(OFTEN[0])
    path = tmp_path / "audit.jsonl"
    talkative(reference)
    with tm.session(reference, trace=f"file:{path}"), tm.using(mode="ar"):
        talkative(reference)
    (told,) = explained(records(read_audit(path)))
    assert told.switches
    assert not any(" > " in line for line in told.switches)


def test_ids_differ_from_those_of_the_conversation(reference: tm.Engine) -> None:
    first = turn(reference, tool_choice="required", temperature=0)
    call = first.calls[0]
    said = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}
    history = [
        *ASKED,
        {"role": "assistant", "tool_calls": [said]},
        {"role": "tool", "tool_call_id": call.id, "content": "1"},
    ]
    second = turn(reference, tool_choice="required", messages=history, temperature=0)
    assert second.calls[0].id != call.id
    assert len(call.id) == 9
    assert call.id.isalnum()


@tm.step("turn", tools=TOOLS, tool_choice="required", max_tokens=60)
def answer(history: list[dict[str, str]]) -> tm.Turn:
    return tm.ask(history)


@tm.step(tools=TOOLS, max_tokens=60)
async def reply(history: list[dict[str, str]]) -> tm.Turn:
    return tm.ask(history)


def test_as_a_step(reference: tm.Engine) -> None:
    import asyncio

    with tm.session(reference):
        found = answer(ASKED)
        assert found.calls
        assert tm.execute(found.calls[0], TOOLS) is not None
        said = asyncio.run(reply(ASKED))
        assert said.text
        assert said.calls == ()
    assert reply.spec.kind == "turn"


def test_a_schema_beside_calls_that_must_come_is_noted(reference: tm.Engine) -> None:
    for choice in ("required", "weather", {"type": "function", "function": {"name": "weather"}}):
        found = turn(reference, tool_choice=choice, schema=ANSWER)
        assert any(note.startswith("the schema has no part in this turn") for note in found.notes)
    for choice in ("auto", "none"):
        assert not any("has no part" in note for note in turn(reference, tool_choice=choice, schema=ANSWER).notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tool_choice": "fly"}, "tool_choice='fly': expected one of auto, none, required, calculator, weather"),
        ({"tool_choice": "required", "tools": []}, "no tools"),
        ({"tool_choice": "auto", "step": "json"}, "belong to a turn"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls='yes': expected true or false"),
        ({"tool_choice": {"type": "function", "function": {"name": "fly"}}}, "tool_choice="),
    ],
)
def test_what_cannot_be_asked(options: dict[str, Any], message: str, reference: tm.Engine) -> None:
    with pytest.raises(tm.TrimodeError, match=message.replace("(", r"\(")):
        turn(reference, **options)


def test_openai_s_form_of_a_named_tool(reference: tm.Engine) -> None:
    found = turn(reference, tool_choice={"type": "function", "function": {"name": "weather"}})
    assert [call.name for call in found.calls] == ["weather"]
