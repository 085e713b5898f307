"""Recorded calls decoded again under other policies: exact modes write the recorded tokens; each step has its rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from loaded import SHORT

import trimode as tm
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.trail import read_audit, records
from trimode.policy.calls.engine import Engine
from trimode.policy.replay.decode_again import Engines
from trimode.policy.replay.under_policies import AGAIN, comparable, decoded_under, replayed_under
from trimode.policy.selection.policies import Policy
from trimode.policy.selection.settings import Settings

AR = Policy(name="plain", kinds={kind: Settings(mode="ar") for kind in ("plan", "tool_call", "json", "prose")})
QUICK = Policy(
    name="plain",  # two files may say the same name
    kinds={
        "json": Settings(mode="quadratic_spec", block_length=4, rows=1),
        "prose": Settings(mode="diffusion", exact=False),
    },
)


@pytest.fixture(scope="module")
def calls(reference: Engine, tmp_path_factory: pytest.TempPathFactory) -> list[CallRecord]:
    path = tmp_path_factory.mktemp("under") / "audit.jsonl"
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}", content=True):
        for seed in range(3):
            reference.generate("The table is", step="prose", max_tokens=14, temperature=1.0, seed=seed, stop="zz")
            reference.generate("Measure:", schema=SHORT, max_tokens=30, temperature=0.8, seed=seed)
        reference.choice(["yes", "no"], "Is it?")
        reference.infill("The table is ", " long.", max_tokens=4)
    return records(read_audit(path))


class Here(Engines):
    """The engine at hand, whatever a record says."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine

    def of(self, runtime: object) -> Engine:  # noqa: ARG002
        return self.engine


def test_rows_are_those_of_each_step_and_policy(calls: list[CallRecord], reference: Engine) -> None:
    rows, wrong = replayed_under(calls, [AR, QUICK], Here(reference))
    assert wrong == []
    assert {row.step for row in rows} == {"generate"}
    assert [(row.kind, row.policy, row.mode) for row in rows] == [
        ("json", "as recorded", "linear_spec"),
        ("json", AGAIN, "linear_spec"),
        ("json", "plain", "ar"),
        ("json", "plain", "quadratic_spec:4:1"),
        ("prose", "as recorded", "ar"),
        ("prose", AGAIN, "ar"),
        ("prose", "plain", "ar"),
        ("prose", "plain", "diffusion"),
    ]
    assert all(row.calls == 3 and not row.derived for row in rows)
    assert [row.same for row in rows[:4]] == [None, 3, 3, 3]
    assert [row.same for row in rows[4:7]] == [None, 3, 3]
    recorded, again = rows[:2]
    assert (recorded.passes, recorded.accepted) == (again.passes, again.accepted)
    assert rows[2].accepted is None
    assert rows[2].passes != rows[1].passes


def test_what_cannot_be_compared_is_left_out(calls: list[CallRecord]) -> None:
    kept = [record for group in comparable(calls).values() for record in group]
    assert len(kept) == 6
    assert {record.kind for record in kept} == {"json", "prose"}
    cut = replace(kept[0], finish_reason="length", max_tokens=200)
    assert comparable([cut, kept[1].redacted()]) == {}


def test_other_tokens_of_an_exact_mode_are_told(calls: list[CallRecord], reference: Engine) -> None:
    record = next(record for record in calls if record.kind == "prose")
    forged = replace(record, token_ids=(1, *(record.token_ids or ())[1:]))
    found = decoded_under(forged, "prose", AR, Here(reference))
    assert (found.exact, found.same, found.mode) == (True, False, "ar")
    _, wrong = replayed_under([forged], [AR, QUICK], Here(reference))
    assert [(one.policy, one.mode) for one in wrong] == [(AGAIN, "ar"), ("plain", "ar")]
