"""`lookup_spec` on the bundled weights and on weights that decode causally only: tokens, records, replay, sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loaded import SHORT

import trimode as tm
from trimode.engine.options import ArOptions, ExactOptions, LinearSpecOptions, LookupSpecOptions, Switch
from trimode.engine.result import Round
from trimode.policy.audit.redaction import CHANGED
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls.arguments import call_of
from trimode.policy.calls.engine import Engine
from trimode.policy.calls.recent_outputs import TOKENS, RecentOutputs
from trimode.policy.calls.result import Result
from trimode.policy.replay.decode_again import replay, request_of

ASK = [{"role": "user", "content": "The table is 40 cm high, 40 cm wide and 90 cm long. How long is the table?"}]
ROWS = {"type": "array", "items": SHORT, "minItems": 3, "maxItems": 3}
ARMS: list[dict[str, Any]] = [{"max_tokens": 48}, {"max_tokens": 90, "schema": ROWS}]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("arm", ARMS, ids=["free", "schema"])
def test_the_tokens_are_those_of_ar_alone_and_together(
    reference: Engine, temperature: float, arm: dict[str, Any]
) -> None:
    def asked(seed: int, **options: Any) -> dict[str, Any]:
        return {"messages": ASK, "temperature": temperature, "seed": seed, **arm, **options}

    plain = [reference.generate(**asked(seed, mode="ar")) for seed in range(4)]
    alone = [reference.generate(**asked(seed, mode="lookup_spec", block_length=9)) for seed in range(4)]

    async def together() -> list[Result]:
        modes = ("lookup_spec", "linear_spec", "lookup_spec", "quadratic_spec")
        calls = [reference.agenerate(**asked(seed, mode=mode)) for mode in modes for seed in range(4)]
        return list(await asyncio.gather(*calls))

    for at, found in enumerate([*alone, *asyncio.run(together())]):
        assert found.token_ids == plain[at % 4].token_ids
    passes = [sum(one.stats.forward_passes for one in ones) for ones in (alone, plain)]
    assert passes[0] < passes[1]
    assert sum(one.stats.accepted for one in alone) > 0


def test_options_are_settings_and_say_where_they_have_no_part(reference: Engine) -> None:
    found = reference.generate(messages=ASK, mode="lookup_spec", block_length=5, min_match=2, max_tokens=24)
    assert found.notes == ()
    assert max(round_.drafted for round_ in found.trace) == 4
    other = reference.generate(messages=ASK, mode="ar", min_match=2, max_tokens=4)
    assert other.notes == ("min_match=2 has no part in mode 'ar'",)
    with pytest.raises(tm.RequestError, match="min_match=0"):
        reference.generate(messages=ASK, mode="lookup_spec", min_match=0)
    with pytest.raises(tm.PolicyError, match=r"min_match=1\.5"):
        reference.generate(messages=ASK, mode="lookup_spec", min_match=1.5)  # type: ignore[arg-type]


def recorded(reference: Engine, path: Path, **session: Any) -> list[Result]:
    """Three calls of a session, of which the last one asks what the first did."""
    with tm.session(reference, trace=f"file:{path}", **session), tm.using(mode="lookup_spec", temperature=1.0):
        first = reference.generate("The table is", max_tokens=24)
        reference.generate("A chair", max_tokens=9)
        return [first, reference.generate("The table is", max_tokens=24)]


def test_outputs_of_the_session_are_copied_recorded_and_replayed(
    reference: Engine, fresh: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    first, last = recorded(reference, path, content=True)
    assert last.token_ids == first.token_ids
    assert last.stats.forward_passes < first.stats.forward_passes / 2
    calls = records(read_audit(path))
    assert [call.lookup_ids for call in calls] == [None, (first.token_ids,), (first.token_ids, calls[1].token_ids)]
    assert request_of(calls[2], fresh).lookup == calls[2].lookup_ids
    assert verify(path) == []
    assert [replay(call, fresh).outcome for call in calls] == ["same"] * 3
    without = replay(replace(calls[2], lookup_ids=None), fresh)
    assert (without.outcome, without.message[:28]) == ("path", "the same ids by another path")


def test_without_content_nothing_of_them_is_recorded(reference: Engine, tmp_path: Path) -> None:
    recorded(reference, tmp_path / "bare.jsonl")
    assert [call.lookup_ids for call in records(read_audit(tmp_path / "bare.jsonl"))] == [None] * 3


def test_a_rule_that_changes_an_earlier_output_takes_it_out_of_later_records(reference: Engine, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with tm.session(reference) as _:
        secret = reference.generate("A chair", max_tokens=9, mode="lookup_spec", temperature=1.0).text
    recorded(reference, path, content=True, redact=lambda text: text.replace(secret, "***"))
    *_, last = records(read_audit(path))
    assert CHANGED in last.notes
    assert last.lookup_ids is None


def test_sessions_and_calls_outside_share_no_outputs(reference: Engine, tmp_path: Path) -> None:
    for name in ("one", "two"):
        recorded(reference, tmp_path / f"{name}.jsonl", content=True)
        assert records(read_audit(tmp_path / f"{name}.jsonl"))[0].lookup_ids is None


def test_the_latest_outputs_are_kept() -> None:
    outputs = RecentOutputs()
    for at in range(50):
        outputs.add([at] * 100)
    assert outputs.runs == tuple((at,) * 100 for at in range(40, 50))
    outputs.add(range(3 * TOKENS))
    assert outputs.runs == (tuple(range(2 * TOKENS, 3 * TOKENS)),)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_it_may_give_way_in_mid_call_and_take_over_again(
    reference: Engine, fresh: Engine, tmp_path: Path, temperature: float
) -> None:
    """To each exact mode in turn, under a schema: the tokens stay, and the record replays by the same rounds."""

    def turns(rounds: Sequence[Round], options: ExactOptions) -> Switch | None:  # noqa: ARG001
        others = (ArOptions(), LookupSpecOptions(block_length=4), LinearSpecOptions(block_length=6))
        return Switch(options=others[len(rounds) % 3], reason="its turn")

    plain = reference.generate(messages=ASK, mode="ar", schema=ROWS, max_tokens=90, temperature=temperature)
    path = tmp_path / "audit.jsonl"
    call = call_of(
        "generate", None, messages=ASK, mode="lookup_spec", schema=ROWS, max_tokens=90, temperature=temperature
    )
    with tm.session(reference, trace=f"file:{path}", content=True):
        found = reference.run(replace(call, plan=replace(call.plan, controller=turns)))
    assert found.token_ids == plain.token_ids
    assert len({round_.mode for round_ in found.trace}) == 3
    assert verify(path) == []
    (record,) = records(read_audit(path))
    assert replay(record, fresh).outcome == "same"
