"""logit_bias as a setting of calls: validated, held below a schema, recorded and replayed."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from loaded import SHORT

import trimode as tm
from trimode.engine.result import Mode
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls.engine import Engine
from trimode.policy.replay.decode_again import replay
from trimode.policy.selection import Settings
from trimode.policy.selection.toml_text import as_toml

ASK = [{"role": "user", "content": "There are 5 boxes with 20 apples each. How many apples are there?"}]
MODES: list[Mode] = ["ar", "linear_spec", "quadratic_spec", "diffusion"]


def biased(engine: Engine, mode: Mode, bias: dict[int, float], **more: Any) -> tm.Result:
    return engine.generate(messages=ASK, mode=mode, logit_bias=bias, max_tokens=30, **more)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_exact_modes_agree_and_every_mode_keeps_a_ban(reference: Engine, temperature: float) -> None:
    plain = reference.generate(messages=ASK, max_tokens=30, temperature=temperature)
    banned = dict.fromkeys(plain.token_ids[:3], -100.0)
    found = [biased(reference, mode, banned, temperature=temperature).token_ids for mode in MODES]
    assert found[0] == found[1] == found[2] != plain.token_ids
    assert not set(banned) & {token for ids in found for token in ids}


@pytest.mark.parametrize("mode", MODES)
def test_a_schema_stays_in_force(reference: Engine, mode: Mode) -> None:
    everything = dict.fromkeys(range(1000), -100.0)
    wish = {reference.tokenize("apples")[0]: 100.0}
    for bias in (everything, wish):
        assert biased(reference, mode, bias, schema=SHORT, step="json").valid


@pytest.mark.parametrize("mode", MODES)
def test_it_is_recorded_and_replayed(reference: Engine, tmp_path: Path, mode: Mode) -> None:
    path = tmp_path / "audit.jsonl"
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}", content=True):
        plain = reference.generate(messages=ASK, mode=mode, max_tokens=20)
        biased(reference, mode, {plain.token_ids[0]: -100, 7: 2})
    assert verify(path) == []
    first, second = records(read_audit(path))
    pairs = tuple(sorted({plain.token_ids[0]: -100.0, 7: 2.0}.items()))
    assert (first.sampling.logit_bias, second.sampling.logit_bias) == ((), pairs)
    assert second.requested["logit_bias"] == {str(token): bias for token, bias in pairs}
    assert replay(second, reference).outcome == "same"
    assert Settings.of({"logit_bias": second.requested["logit_bias"]}, "record").logit_bias == pairs


def test_ids_may_be_texts_of_digits_as_in_json() -> None:
    assert Settings.of({"logit_bias": {"12": 1, 7: -100}}, "test").logit_bias == ((7, -100.0), (12, 1.0))
    assert Settings.of({"logit_bias": {}}, "test").logit_bias == ()


@pytest.mark.parametrize(
    "wrong", [3, [1, 2], "7", {"a": 1}, {1: "a"}, {1: None}, {1.5: 1}, {True: 1}, {"7": 1, 7: 1}, {"\u0667": 1}]
)
def test_what_is_no_bias_is_refused(wrong: Any) -> None:
    with pytest.raises(tm.PolicyError, match="logit_bias"):
        Settings.of({"logit_bias": wrong}, "test")


@pytest.mark.parametrize("wrong", [{1: 101}, {1: float("nan")}, {-1: 1}, {10**9: 1}])
def test_biases_out_of_range_are_refused(reference: Engine, wrong: dict[int, float]) -> None:
    with pytest.raises(tm.RequestError, match="logit_bias"):
        reference.generate("x", logit_bias=wrong, max_tokens=1)


def test_a_policy_file_may_have_one() -> None:
    settings = Settings(logit_bias=((7, -100.0),))
    written = tomllib.loads(as_toml({"kinds": {"prose": settings.given()}}))
    assert Settings.of(written["kinds"]["prose"], "file") == settings
    assert tm.Policy(kinds={"prose": settings}).sha256 != tm.Policy().sha256


def test_a_choice_notes_it(reference: Engine) -> None:
    result = reference.generate("x", step="choice", schema={"enum": ["a", "b"]}, logit_bias={1: 1})
    assert [note.partition("=")[0] for note in result.notes] == ["logit_bias"]
