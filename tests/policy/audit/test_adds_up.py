"""The invariant over hundreds of generated calls: every record adds up, with and without content, and replays.

All modes and step kinds, switches of mode in mid-call, temperatures, filters, stop strings, grammars, thinking budgets
and gaps, decoded in company and again alone. scripts/check_audit.py does the same with 2,000 calls of the reference
checkpoint.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import small
from mixed import MODES, Fickle, mixed_requests

from trimode.engine.constraint import Thinking
from trimode.engine.options import AdaptiveOptions, InfillOptions
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.result import DecodeResult, Mode
from trimode.engine.token_engine import TokenEngine
from trimode.policy.audit.consistency import check_record
from trimode.policy.audit.new_record import record_call
from trimode.policy.audit.record import CallRecord, PolicyUsed, Runtime, StepKind
from trimode.policy.audit.trail import AuditFile, read_audit, records, verify
from trimode.policy.replay.decode_again import compare

CALLS = 300
POLICY = PolicyUsed(name="fixed", version="1", sha256="e" * 64, reason="generated")
RUNTIME = Runtime(model="small", model_sha256="a" * 64, tokenizer_sha256="b" * 64, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def tokens() -> TokenEngine:
    return small.engine(small.model(3, rank=4))


def requests(count: int) -> list[DecodeRequest]:
    """Mixed requests, among them thinking budgets, gaps to fill and switches of mode; fresh ones each time."""
    return list(itertools.islice(_varied(), count))


def _varied() -> Iterator[DecodeRequest]:
    for seed in itertools.count():
        for at, request in enumerate(mixed_requests(100 * seed, 60)):
            if at % 10 == 9:
                gap = InfillOptions(suffix=small.prompt(at, 4), threshold=0.5)
                yield DecodeRequest(prompt=request.prompt, options=gap, sampling=Sampling(seed=at), max_tokens=5)
            elif at % 8 == 3:
                adaptive = AdaptiveOptions(first=MODES[at % 5], controller=Fickle(at, 0.4))
                yield replace(request, options=adaptive)
            elif at % 7 == 6:
                yield replace(request, thinking=Thinking(end=7, budget=min(3, request.max_tokens - 1)))
            else:
                yield request


DECODED = tuple(kind for kind in get_args(StepKind) if kind not in ("choice", "turn"))
"""Kinds whose tokens a mode decodes; a choice is scored."""


@pytest.fixture(scope="module")
def made(tokens: TokenEngine) -> list[tuple[CallRecord, DecodeResult]]:
    kinds = itertools.cycle((*DECODED, *DECODED, "plan", "json", "prose"))  # eleven, so that each meets each mode
    given = requests(CALLS)
    results = [result for start in range(0, CALLS, 30) for result in tokens.decode_many(given[start : start + 30])]
    return [
        (
            record_call(
                step="made",
                kind=next(kinds),
                requested={},
                request=request,
                result=result,
                policy=POLICY,
                runtime=RUNTIME,
                start_ns=1,
                end_ns=2,
                text_of=small.text,
            ),
            result,
        )
        for request, result in zip(given, results, strict=True)
    ]


Made = list[tuple[CallRecord, DecodeResult]]


def test_every_call_adds_up(made: Made) -> None:
    wrong = [problem for record, _ in made for form in (record, record.redacted()) for problem in check_record(form, 1)]
    assert wrong == []


def test_the_calls_are_of_every_kind(made: Made) -> None:
    """Otherwise the test above says little."""
    seen = Counter((record.options["mode"], record.kind) for record, _ in made)
    assert len(seen) == len(get_args(Mode)) * len(DECODED)
    codes = Counter("".join(part.origins for record, _ in made for part in record.rounds))
    assert min(codes[code] for code in "abcf") > 20
    assert codes["r"] > 10
    reasons = Counter(why for record, _ in made for part in record.rounds for _, why in part.rejected)
    assert min(reasons[why] for why in ("schema", "target", "stop")) > 10
    assert {record.finish_reason for record, _ in made} == {"stop", "length"}
    assert sum(record.thinking is not None for record, _ in made) > 20
    assert sum(record.suffix_ids is not None for record, _ in made) > 20
    switched = [record for record, _ in made if any(part.switch for part in record.rounds)]
    assert len(switched) > 20


def test_text_and_ids_of_the_rounds_are_those_of_the_result(made: Made) -> None:
    for record, result in made:
        assert tuple(token for part in record.rounds for token in part.tokens or ()) == result.token_ids
        for part in record.rounds:
            assert part.text == small.text(part.tokens or ())
            assert part.rejected_text == tuple(small.text([token or 0]) for token, _ in part.rejected)
            assert len(part.instead or ()) == len(part.rejected)
            assert all(chance is None or 0 <= chance <= 1 for chance in part.instead or ())


def test_the_first_draft_that_verification_refused_tells_what_took_its_place(made: Made) -> None:
    told = 0
    for record, _ in made:
        for part in record.rounds:
            reasons = [why for _, why in part.rejected]
            of_budget = "b" in part.origins  # what the budget forced, nobody chose
            if part.mode in ("linear_spec", "quadratic_spec") and "target" in reasons and not of_budget:
                first = reasons.index("target")
                assert (part.instead or ())[first] is not None
                told += 1
    assert told > 30


def test_a_trail_of_them_verifies_and_reads_back(made: Made, tmp_path: Path) -> None:
    trail = AuditFile(tmp_path / "audit.jsonl", content=True, rotate=300_000)
    for record, _ in made:
        trail.write(record)
    assert verify(trail.path) == []
    assert records(read_audit(trail.path)) == [record for record, _ in made]


def test_decoded_again_alone_they_are_the_same(made: Made, tokens: TokenEngine) -> None:
    outcomes = Counter(
        compare(record, tokens.decode(request), ()).outcome
        for (record, _), request in zip(made, requests(CALLS), strict=True)
    )
    assert outcomes == {"same": CALLS}
