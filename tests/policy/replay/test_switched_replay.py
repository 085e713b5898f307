"""Calls whose mode switched in mid-call: they replay by the same path, and their switches add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import small
from automaton import random_automaton
from hypothesis import given, settings
from hypothesis import strategies as st
from loaded import SHORT
from mixed import MODES, Fickle
from pydantic import TypeAdapter

import trimode as tm
from trimode.engine.constraint import Thinking
from trimode.engine.errors import RequestError
from trimode.engine.options import AdaptiveOptions, ArOptions, LinearSpecOptions
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.token_engine import TokenEngine
from trimode.policy.audit.consistency import check_record
from trimode.policy.audit.new_record import record_call
from trimode.policy.audit.record import CallRecord, PolicyUsed, Runtime
from trimode.policy.audit.round_record import RoundRecord
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls.arguments import call_of
from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine
from trimode.policy.replay.decode_again import compare, replay
from trimode.policy.replay.recorded_options import switches_of
from trimode.policy.selection.switching import Schedule

POLICY = PolicyUsed(name="fickle", version="1", sha256="e" * 64, reason="by chance")
RUNTIME = Runtime(model="small", model_sha256="a" * 64, tokenizer_sha256="b" * 64, device="cpu", dtype="float32")
RECORD = TypeAdapter(CallRecord)


@cache
def tokens(seed: int, adapter: bool) -> TokenEngine:
    return small.engine(small.model(seed, shared=4, sharpness=3, rank=2 * adapter), keep_prefixes=False)


@given(
    seed=st.integers(0, 10_000),
    chance=st.sampled_from([0.2, 0.5, 1.0]),
    temperature=st.sampled_from([0.0, 1.0]),
    first=st.sampled_from(MODES),
    constrained=st.booleans(),
    thinks=st.booleans(),
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_any_schedule_replays_from_its_record_by_the_same_path(
    seed: int, chance: float, temperature: float, first: Any, constrained: bool, thinks: bool
) -> None:
    usable = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]

    def request(options: AdaptiveOptions) -> DecodeRequest:
        return DecodeRequest(
            prompt=small.prompt(seed, 1 + seed % 20),
            options=options,
            sampling=Sampling(temperature=temperature, seed=seed),
            max_tokens=30,
            constraint=random_automaton(seed, small.VOCAB, usable, (small.EOS,)) if constrained else None,
            thinking=Thinking(end=7, budget=6) if thinks else None,
        )

    engine, fickle = tokens(seed % 5, adapter=seed % 2 == 0), Fickle(seed, chance)
    asked = request(AdaptiveOptions(first=first, controller=fickle))
    written = record_call(
        step="made", kind="prose", requested={}, request=asked, result=engine.decode(asked), policy=POLICY,
        runtime=RUNTIME, start_ns=1, end_ns=2, text_of=small.text,
    )  # fmt: skip
    record = RECORD.validate_json(RECORD.dump_json(written))
    assert record == written
    assert list(check_record(record, 1)) == list(check_record(record.redacted(), 1)) == []
    assert switches_of(record) == fickle.switches
    again = request(AdaptiveOptions(first=first, controller=Schedule(switches=switches_of(record))))
    found = compare(record, engine.decode(again), ())
    assert (found.outcome, found.message) == ("same", f"{len(record.token_ids or ())} tokens, bit for bit")


def call_with(seed: int, **words: Any) -> Call:
    """A call that is handed to `Fickle` between its rounds."""
    ask = [{"role": "user", "content": "How long is the table?"}]
    call = call_of("generate", None, messages=ask, seed=seed, mode=MODES[seed % 5].mode, **words)
    return replace(call, plan=replace(call.plan, controller=Fickle(seed, 0.4)))


@pytest.fixture(scope="module")
def trail(reference: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("switched") / "audit.jsonl"
    words: list[dict[str, Any]] = [
        {"max_tokens": 24},
        {"max_tokens": 24, "temperature": 1.0, "top_p": 0.9, "stop": ["the"]},
        {"max_tokens": 30, "schema": SHORT, "temperature": 0.9},
        {"max_tokens": 30, "schema": {"enum": ["a long word", "another"]}, "max_thinking_tokens": 6},
    ]
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}", content=True):
        for seed in range(4):
            for more in words:
                reference.run(call_with(seed, **more))
        list(reference.events(reference.recording(call_with(1, max_tokens=20), streamed=True)))
    return path


@pytest.fixture(scope="module")
def calls(trail: Path) -> list[CallRecord]:
    return records(read_audit(trail))


def test_recorded_calls_replay_by_the_same_path_on_another_engine(
    trail: Path, calls: list[CallRecord], fresh: Engine
) -> None:
    assert verify(trail) == []
    assert sum(any(made.switch for made in record.rounds) for record in calls) > len(calls) // 2
    found = [replay(record, fresh) for record in calls]
    assert {(one.outcome, "alone" in one.message) for one in found} == {("same", False)}, found


def switched(calls: list[CallRecord]) -> tuple[CallRecord, int]:
    """A call with a switch to drafts after its second round, and the number of that round."""
    return next(
        (record, at)
        for record in calls
        for at, made in enumerate(record.rounds)
        if at > 1 and made.switch and made.mode != "ar" and made.mode != record.rounds[at - 1].mode
    )


def changed(record: CallRecord, at: int, **words: Any) -> CallRecord:
    rounds = [replace(made, **words) if number == at else made for number, made in enumerate(record.rounds)]
    return replace(record, rounds=tuple(rounds))


def test_an_older_record_replays_by_tokens_alone_and_says_so(calls: list[CallRecord], reference: Engine) -> None:
    record, _ = switched(calls)
    older = replace(record, rounds=tuple(replace(made, options=None) for made in record.rounds))
    assert list(check_record(older, 1)) == []
    without = RECORD.dump_json(older).replace(b',"options":null', b"")
    assert RECORD.validate_json(without) == older, "earlier versions did not write the field"
    assert switches_of(older) == {}
    found = replay(older, reference)
    assert found.outcome == "same"
    assert found.message.endswith("by tokens alone: the record does not say with what options modes took over")


def test_another_path_is_told_apart(calls: list[CallRecord], reference: Engine) -> None:
    record, at = switched(calls)
    found = replay(changed(record, at, forward_passes=9), reference)
    assert (found.outcome, found.round, found.field) == ("path", at, "forward_passes")


@pytest.mark.parametrize(
    "options", [{"mode": "diffusion"}, {"mode": "ar", "block_length": 3}, {}, {"mode": "telepathy"}]
)
def test_options_of_no_exact_mode_cannot_take_over(
    calls: list[CallRecord], reference: Engine, options: dict[str, Any]
) -> None:
    record, at = switched(calls)
    with pytest.raises(RequestError, match="expected"):
        switches_of(changed(record, at, options=options))
    found = replay(changed(record, at, options=options), reference)
    assert (found.outcome, found.message[:13]) == ("impossible", "not decoded: ")


def drafts(made: RoundRecord) -> int:
    return made.drafted - sum(why == "schema" for _, why in made.rejected)


CHANGES: list[tuple[str, Callable[[CallRecord, int], CallRecord]]] = [
    ("rounds[{}].mode", lambda record, at: changed(record, at, switch="", options=None)),
    ("rounds[{}].options", lambda record, at: changed(record, at, switch="")),
    ("rounds[{}].mode", lambda record, at: changed(record, at, options={"mode": "ar"})),
    ("rounds[{}].mode", lambda record, at: changed(record, at, mode="diffusion")),
    ("rounds[0].switch", lambda record, _: changed(record, 0, switch="at once", options=record.options)),
    ("rounds[0].mode", lambda record, _: replace(record, options={"mode": "diffusion", "block_length": 3})),
    (
        "rounds",
        lambda record, at: changed(changed(record, at, options=None), at + 1, switch="x", options={"mode": "ar"}),
    ),
]


@pytest.mark.parametrize(("field", "change"), CHANGES)
def test_switches_that_do_not_add_up_are_named(
    calls: list[CallRecord], field: str, change: Callable[[CallRecord, int], CallRecord]
) -> None:
    record, at = switched(calls)
    assert field.format(at) in {problem.field for problem in check_record(change(record, at), 1)}


def test_more_drafts_than_a_block_has_places_for_are_named(calls: list[CallRecord]) -> None:
    record, at = next(
        (record, at)
        for record in calls
        for at, made in enumerate(record.rounds)
        if made.options is not None and made.mode == "linear_spec" and drafts(made) > 1
    )
    options = {"mode": "linear_spec", "block_length": drafts(record.rounds[at])}
    problem, *_ = check_record(changed(record, at, options=options), 1)
    assert (problem.field, problem.expected) == (f"rounds[{at}].drafted", str(drafts(record.rounds[at]) - 1))


def test_a_schedule_switches_where_it_was_told() -> None:
    made = Fickle(0, 1.0)((), ArOptions())
    assert made is not None
    schedule = Schedule(switches={2: made})
    (one,) = tokens(0, adapter=False).decode(DecodeRequest(prompt=(1,), max_tokens=1)).rounds
    assert [schedule([one] * count, LinearSpecOptions()) for count in range(4)] == [None, None, made, None]
