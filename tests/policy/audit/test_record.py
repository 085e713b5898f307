"""Records of real calls: they hold what was asked and what came about, and lose content only when told to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode.engine.errors import RequestError
from trimode.engine.options import LinearSpecOptions
from trimode.engine.request import DecodeRequest, Sampling
from trimode.policy.audit.consistency import check_record
from trimode.policy.audit.content import SWITCH, captures
from trimode.policy.audit.digests import sequence_digests
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.round_record import token_ends

Recorded = Callable[..., CallRecord]
MODES = ["ar", "diffusion", "linear_spec"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("schema", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_real_calls_add_up_with_and_without_content(recorded: Recorded, mode: str, schema: bool, seed: int) -> None:
    record = recorded(mode, schema=schema, seed=seed)
    assert list(check_record(record, 1)) == []
    assert list(check_record(record.redacted(), 1)) == []
    assert {part.mode for part in record.rounds} == {mode}
    assert record.token_ids == tuple(token for part in record.rounds for token in part.tokens or ())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("failed", [None, RequestError("no such thing")])
def test_a_record_made_without_content_is_the_redacted_one(
    recorded: Recorded, mode: str, failed: BaseException | None
) -> None:
    arguments: dict[str, Any] = {"call": "1" * 32, "logprobs": (-0.5,), "notes": ("a note",), "failed": failed}
    whole, bare = (recorded(mode, schema=True, content=content, **arguments) for content in (True, False))
    assert whole.has_content
    assert not bare.has_content
    assert replace(bare, counts=whole.counts) == whole.redacted()
    assert bare.redacted() == bare


def test_a_schema_leaves_forced_tokens_and_refused_drafts(recorded: Recorded) -> None:
    record = recorded("linear_spec", schema=True)
    assert record.counts is not None
    assert record.counts.forced > 0
    assert any(reason == "schema" for part in record.rounds for _, reason in part.rejected)
    assert any(part.rejected_text for part in record.rounds)


def test_record_holds_what_a_replay_needs(recorded: Recorded) -> None:
    record = recorded("linear_spec", schema=True)
    again = DecodeRequest(
        prompt=record.prompt_ids or (),
        options=LinearSpecOptions(block_length=6),
        sampling=Sampling(**asdict(record.sampling)),
        max_tokens=record.max_tokens,
        stop=record.stop,
    )
    assert record.options == {"mode": "linear_spec", "block_length": 6, "exact_first": None}
    assert again.sampling == Sampling(temperature=0.7, seed=7)
    assert again.stop == ("!!",)
    assert record.schema == {"type": "array"}
    assert set(record.versions) == {"trimode", "torch", "tokenizers", "llguidance"}


def test_exact_modes_leave_the_same_digest(recorded: Recorded) -> None:
    ar, linear = recorded("ar").redacted(), recorded("linear_spec").redacted()
    assert ar.output_sha256 == linear.output_sha256
    assert ar.rounds != linear.rounds


def test_redacted_record_holds_no_content(recorded: Recorded) -> None:
    kept = recorded("diffusion", failed=None, notes=("asked for quadratic_spec, ran diffusion",)).redacted()
    assert not kept.has_content
    assert (kept.prompt_ids, kept.token_ids, kept.text, kept.schema, kept.error_message) == (None,) * 5
    assert kept.notes == ("asked for quadratic_spec, ran diffusion",)
    for part in kept.rounds:
        assert (part.tokens, part.text, part.ends, part.rejected_text) == (None,) * 4
        assert all(token is None for token, _ in part.rejected)


def test_digest_of_a_short_round_depends_on_the_prompt() -> None:
    one, other = sequence_digests([1, 2], [[9]]), sequence_digests([1, 3], [[9]])
    assert one[1] != other[1]
    assert one[1] == sha256(b"".join(token.to_bytes(8, "little") for token in (1, 2, 9))).hexdigest()
    assert sequence_digests([1, 2, 9], []) == [one[1]]


def test_failed_call_is_recorded_without_a_result(recorded: Recorded) -> None:
    record = recorded("ar", failed=RequestError("secret 42"))
    assert (record.counts, record.finish_reason, record.output_sha256, record.rounds) == (None, None, None, ())
    assert record.error == "trimode.engine.errors.RequestError"
    assert record.error_message == "secret 42"
    assert record.redacted().error_message is None
    assert list(check_record(record, 1)) == []


@pytest.mark.parametrize(
    ("value", "span", "file"),
    [
        (None, False, False),
        ("", False, False),
        ("NO_CONTENT", False, False),
        ("false", False, False),
        ("SPAN_ONLY", True, True),
        ("event_only", False, True),
        ("SPAN_AND_EVENT", True, True),
        ("true", True, True),
    ],
)
def test_content_switch(monkeypatch: pytest.MonkeyPatch, value: str | None, span: bool, file: bool) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    if value is not None:
        monkeypatch.setenv(SWITCH, value)
    assert (captures("span"), captures("file")) == (span, file)
    assert captures("span", True)
    assert not captures("file", False)


def test_unknown_content_switch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "SPANS")
    with pytest.raises(ValueError, match=r"'SPANS': expected one of NO_CONTENT, .*SPAN_AND_EVENT"):
        captures("span")


def test_records_and_spans_need_no_torch() -> None:
    modules = ", ".join(f"trimode.policy.{name}" for name in ("audit", "telemetry", "selection"))
    code = f"import json, sys, {modules}; print(json.dumps([m for m in ('torch', 'transformers') if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def utf8(ids: Sequence[int]) -> str:
    """Bytes as tokens: a character may need four of them."""
    return bytes(ids).decode("utf-8", errors="replace")


def piece(token: int) -> str:
    return utf8([token])


@given(st.text(max_size=12))
def test_ends_cut_a_round_into_the_texts_of_its_tokens(text: str) -> None:
    tokens = list(text.encode())
    ends = token_ends(tokens, text, utf8, piece)
    lasts = [sum(len(char.encode()) for char in text[: at + 1]) - 1 for at in range(len(text))]
    assert len(ends) == len(tokens)
    assert [ends[last] for last in lasts] == list(range(1, len(text) + 1)), "a character stands with its last byte"


@given(st.lists(st.integers(0, 255), max_size=12))
def test_ends_of_any_bytes_are_in_order_and_cover_the_text(tokens: list[int]) -> None:
    ends = token_ends(tokens, utf8(tokens), utf8, piece)
    assert list(ends) == sorted(ends)
    assert len(ends) == len(tokens)
    assert max(ends, default=0) == len(utf8(tokens))


def test_wrong_ends_are_found(recorded: Recorded) -> None:
    record = recorded("linear_spec")
    first = record.rounds[0]
    wrong = replace(record, rounds=(replace(first, ends=(*(first.ends or ()), 99)), *record.rounds[1:]))
    assert [problem.field for problem in check_record(wrong, 1)] == ["rounds[0].ends"]
