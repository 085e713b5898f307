"""Replay: what was recorded decodes again to the same ids, and a difference names its round and what may explain it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from loaded import SHORT

import trimode as tm
from trimode.engine.models.checkpoint import BUNDLED
from trimode.engine.options import DiffusionOptions, InfillOptions
from trimode.engine.result import DecodeResult, Mode
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import PolicyError
from trimode.policy.replay import decode_again as replaying
from trimode.policy.replay.decode_again import BUG, NO_CONTENT, Engines, replay, request_of
from trimode.policy.schema.targets import schema_of

ASK: list[dict[str, str]] = [{"role": "user", "content": "How long is the table?"}]
MODES: list[Mode] = ["ar", "diffusion", "linear_spec", "quadratic_spec"]
SETTINGS: list[dict[str, Any]] = [
    {"max_tokens": 12},
    {"max_tokens": 30, "schema": SHORT, "temperature": 0.9, "seed": 2**64 - 1},
    {"max_tokens": 20, "temperature": 1.0, "top_p": 0.8, "top_k": 30, "seed": 4, "stop": ["e", "the"]},
    {"max_tokens": 30, "max_thinking_tokens": 5, "schema": {"enum": ["a long word", "another"]}, "temperature": 0.5},
    {"max_tokens": 12, "block_length": 6, "threshold": 0.4, "rows": 2, "exact": False, "step": "plan"},
]


@pytest.fixture(scope="module")
def trail(reference: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calls of every mode with every sort of setting, a stream, company, a gap, and calls without a result."""
    path = tmp_path_factory.mktemp("replay") / "audit.jsonl"

    async def company() -> None:
        await asyncio.gather(*(reference.agenerate(messages=ASK, mode=mode, max_tokens=9) for mode in MODES))

    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}", content=True):
        for mode in MODES:
            for words in SETTINGS:
                reference.generate(messages=ASK, mode=mode, **words)
        list(reference.stream("raw text", mode="linear_spec", max_tokens=6))
        asyncio.run(company())
        reference.infill("The table is ", " long.", max_tokens=4, temperature=0.8, seed=3)
        with pytest.raises(tm.PromptTooLong):
            reference.generate("x", max_tokens=5000)
    assert verify(path) == []
    return path


@pytest.fixture(scope="module")
def calls(trail: Path) -> list[CallRecord]:
    return records(read_audit(trail))


def test_every_call_replays_bit_for_bit_on_another_engine(calls: list[CallRecord], fresh: Engine) -> None:
    found = [replay(record, fresh) for record in calls]
    assert [one.outcome for one in found] == ["same"] * (len(calls) - 1) + ["impossible"], found
    assert found[-1].message == "the call ended with trimode.engine.errors.PromptTooLong before there was any output"
    assert {str(record.options["mode"]) for record in calls} == set(MODES)


def test_a_record_without_content_says_so(calls: list[CallRecord], reference: Engine) -> None:
    found = replay(calls[0].redacted(), reference)
    assert (found.outcome, found.message) == ("impossible", NO_CONTENT)


def test_a_schema_whose_formats_were_left_out_replays(reference: Engine, tmp_path: Path) -> None:
    schema = schema_of({"type": "string", "format": "odd", "maxLength": 3}, formats="annotate")
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{tmp_path / 'a'}", content=True):
        reference.generate(messages=ASK, schema=schema, max_tokens=20)
    (record,) = records(read_audit(tmp_path / "a"))
    assert record.schema_formats == "annotate"
    assert replay(record, reference).outcome == "same"


def tampered(record: CallRecord, **changes: Any) -> CallRecord:
    """The record as if an earlier run had come to something else in its second round."""
    rounds = list(record.rounds)
    rounds[1] = replace(rounds[1], **changes)
    ids = tuple(token for part in rounds for token in part.tokens or ())
    return replace(record, rounds=tuple(rounds), token_ids=ids)


def other(record: CallRecord) -> CallRecord:
    first, *rest = record.rounds[1].tokens or (0,)
    return tampered(record, tokens=(first + 1, *rest))


def test_other_tokens_with_nothing_changed_are_a_bug(calls: list[CallRecord], reference: Engine) -> None:
    found = replay(other(calls[0]), reference)
    assert (found.outcome, found.round, found.field, found.causes) == ("different", 1, "tokens", ())
    assert found.message.startswith("other tokens, from round 1: tokens was (")
    assert found.message.endswith(f"({BUG})")


def test_the_same_tokens_by_another_path_are_told_apart(calls: list[CallRecord], reference: Engine) -> None:
    found = replay(tampered(calls[0], forward_passes=9), reference)
    assert (found.outcome, found.round, found.field, found.then) == ("path", 1, "forward_passes", "9")


@pytest.mark.parametrize(
    ("runtime", "versions", "cause_start"),
    [
        ({"model_sha256": "a" * 64}, {}, "weights: aaaaaaaaaaaa... then, "),
        ({"tokenizer_sha256": "b" * 64}, {}, "tokenizer: bbbbbbbbbbbb... then, "),
        ({"device": "cuda:0"}, {}, "device: cuda:0 then, cpu now"),
        ({"dtype": "bfloat16"}, {}, "dtype: bfloat16 then, float32 now"),
        ({"kernels": "torch-fast"}, {}, "kernels: torch-fast then, "),
        ({"hardware": "riscv"}, {}, "hardware: riscv then, "),
        ({"quantize": "int8+head"}, {}, "weights in eight bits: int8+head then, no now"),
        ({}, {"torch": "1.0"}, "version of torch: 1.0 then, "),
        ({}, {"trimode": "0.0"}, "version of trimode: 0.0 then, "),
    ],
)
def test_what_is_not_as_it_was_is_named(
    calls: list[CallRecord], reference: Engine, runtime: dict[str, str], versions: dict[str, str], cause_start: str
) -> None:
    changed = replace(
        other(calls[0]),
        runtime=replace(calls[0].runtime, **runtime),
        versions={**calls[0].versions, **versions},
    )
    found = replay(changed, reference)
    assert (found.outcome, found.round) == ("different", 1)
    (cause,) = found.causes
    assert cause.startswith(cause_start)
    assert cause in found.message
    assert BUG not in found.message


def test_more_or_fewer_rounds_and_another_end_are_differences(calls: list[CallRecord], reference: Engine) -> None:
    record = next(call for call in calls if call.finish_reason == "length")
    short = replace(record, rounds=record.rounds[:-1])
    assert replay(short, reference).field == "rounds"
    ended = replay(replace(record, finish_reason="stop"), reference)
    assert (ended.outcome, ended.field, ended.then, ended.now) == ("different", "finish_reason", "stop", "length")


def test_what_cannot_be_decoded_here_says_why(calls: list[CallRecord], reference: Engine) -> None:
    prompt = replace(calls[0], prompt_ids=(10**9,))
    found = replay(prompt, reference)
    assert (found.outcome, found.message[:26]) == ("impossible", "not decoded: prompt holds ")
    unknown = replace(calls[0], options={"mode": "telepathy"})
    assert "'telepathy' is not one that this version replays" in replay(unknown, reference).message


def test_the_request_is_the_one_that_was_made(calls: list[CallRecord], reference: Engine) -> None:
    thinking = next(record for record in calls if record.thinking is not None)
    request = request_of(thinking, reference)
    assert request.thinking is not None
    assert request.thinking.budget == 5
    assert request.constraint is not None
    gap = next(record for record in calls if record.suffix_ids is not None)
    assert request_of(gap, reference).options == InfillOptions(suffix=gap.suffix_ids or ())


@pytest.mark.parametrize("selection", ["vendor", "text_first"])
def test_a_selection_is_recorded_and_replayed(
    reference: Engine, fresh: Engine, tmp_path: Path, selection: Literal["vendor", "text_first"]
) -> None:
    """Said at each level; the weights' own where nobody says it."""
    path = tmp_path / "audit.jsonl"

    @tm.step("prose", mode="diffusion", max_tokens=40, selection=selection)
    def say(what: str) -> str:
        """Say something about {what}."""
        ...

    @tm.step("prose", mode="diffusion", max_tokens=40)
    def tell(what: str) -> str:
        """Tell something about {what}."""
        ...

    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}", content=True):
        reference.generate(messages=ASK, mode="diffusion", max_tokens=40, selection=selection)
        with tm.using(selection=selection):
            tell("tables")
        say("tables")
        reference.generate(messages=ASK, mode="diffusion", max_tokens=40)
    *given, unset = records(read_audit(path))
    assert [record.options["selection"] for record in (*given, unset)] == [selection] * 3 + ["text_first"]
    assert [replay(record, fresh).outcome for record in (*given, unset)] == ["same"] * 4


def test_records_older_than_selection_replay_as_they_were_decoded(calls: list[CallRecord], reference: Engine) -> None:
    record = next(call for call in calls if call.options["mode"] == "diffusion" and call.suffix_ids is None)
    old = replace(record, options={name: word for name, word in record.options.items() if name != "selection"})
    assert replay(old, reference).outcome == "same"
    options = request_of(old, reference).options
    assert isinstance(options, DiffusionOptions)
    assert options.selection == "text_first"


@pytest.mark.parametrize("words", [{"selection": "best"}, {"selection": "vendor", "mode": "linear_spec"}])
def test_selections_that_cannot_be_are_refused(reference: Engine, words: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="selection"):
        reference.generate(messages=ASK, **words)


def test_engines_are_loaded_once_for_each_way_of_decoding(
    calls: list[CallRecord], reference: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []

    def load(source: Any = None, **more: Any) -> Engine:
        asked.append((source, more))
        return reference

    monkeypatch.setattr(Engine, "load", load)
    runtime = calls[0].runtime
    assert runtime.model == BUNDLED
    engines = Engines()
    for one in (runtime, runtime, replace(runtime, dtype="bfloat16"), replace(runtime, model="someone/else")):
        assert engines.of(one) is reference
    assert [(source, more["dtype"]) for source, more in asked] == [
        (None, "float32"), (None, "bfloat16"), ("someone/else", "float32"),
    ]  # fmt: skip
    Engines("there", device="cuda", kernels="torch").of(runtime)
    whole = {"quantize": None, "quantize_head": False, "adapter": False}
    assert asked[-1] == ("there", {"device": "cuda", "dtype": "float32", "kernels": "torch", **whole})


def test_what_rounded_weights_decoded_replays_on_rounded_weights(tmp_path: Path, reference: Engine) -> None:
    rounded = Engine.load(quantize="int8", quantize_head=True)
    assert rounded.kernels.endswith(", weights in int8+head, rows checked to agree")
    with tm.session(rounded, policy=tm.Policy(), trace=f"file:{tmp_path / 'audit.jsonl'}", content=True):
        rounded.generate("One, two,", mode="linear_spec", max_tokens=8)
    (record,) = records(read_audit(tmp_path / "audit.jsonl"))
    assert (record.runtime.quantize, reference.runtime.quantize) == ("int8+head", "no")
    again = Engines().of(record.runtime)
    assert again.runtime == record.runtime
    assert replay(record, again).outcome == "same"
    for engine in (rounded, again):
        engine.close()


def test_a_result_is_compared_without_decoding(calls: list[CallRecord], reference: Engine) -> None:
    result = reference.tokens.decode(request_of(calls[0], reference))
    assert isinstance(result, DecodeResult)
    assert replaying.compare(calls[0], result, ["weights: a then, b now"]).outcome == "same"
