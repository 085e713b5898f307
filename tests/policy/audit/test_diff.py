"""Diff: what two calls, or two trails, do not share; nothing that always differs, nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO

from rich.console import Console

from trimode.integrations.cli.audit_tables import diffs_table
from trimode.policy.audit.diff import MISSING, CallDiff, diff_calls, diff_trails
from trimode.policy.audit.record import CallRecord

Recorded = Callable[..., CallRecord]


def fields(found: CallDiff) -> list[str]:
    return [one.field for one in found.differences]


def test_the_same_request_twice_differs_in_nothing(recorded: Recorded) -> None:
    a, b = recorded("linear_spec", schema=True), recorded("linear_spec", schema=True)
    assert a.call != b.call
    found = diff_calls(a, replace(b, start_ns=5, session="other"))
    assert (found.round, found.differences) == (None, ())
    assert diff_trails([a, a], [b, b]) == []


def test_another_seed_is_told_with_the_first_round_that_follows_from_it(recorded: Recorded) -> None:
    a, b = recorded("ar", seed=1), recorded("ar", seed=2)
    found = diff_calls(a, b)
    (seed,) = [one for one in found.differences if one.field == "sampling.seed"]
    assert (seed.a, seed.b) == ("1", "2")
    first = next(at for at, (x, y) in enumerate(zip(a.rounds, b.rounds, strict=False)) if x.tokens != y.tokens)
    assert found.round == first
    inside = [field for field in fields(found) if field.startswith("rounds[")]
    assert {field.split(".")[0] for field in inside} == {f"rounds[{first}]"}, "rounds after the first are not reported"
    assert f"rounds[{first}].tokens[0]" in inside


def test_a_sequence_is_told_at_its_first_difference(recorded: Recorded) -> None:
    a = recorded("ar")
    ids = list(a.token_ids or ())
    b = replace(a, token_ids=(*ids[:3], 63), prompt_ids=(*(a.prompt_ids or ()), 9))
    told = {one.field: (one.a, one.b) for one in diff_calls(a, b).differences}
    assert told == {"token_ids[3]": (str(ids[3]), "63"), "prompt_ids[4]": ("(ends after 4)", "9")}


def test_exact_modes_share_their_ids_and_not_their_rounds(recorded: Recorded) -> None:
    found = diff_calls(recorded("ar"), recorded("linear_spec"))
    assert {"options.mode", "options.block_length", "requested.mode", "counts.drafted"} <= set(fields(found))
    assert not [field for field in fields(found) if field.startswith(("token_ids", "output_sha256", "text"))]
    assert found.round is not None


def test_one_round_more_is_a_difference(recorded: Recorded) -> None:
    a = recorded("ar")
    found = diff_calls(a, replace(a, rounds=a.rounds[:-1]))
    assert (found.round, fields(found)) == (len(a.rounds) - 1, ["rounds"])


def test_trails_are_paired_in_order(recorded: Recorded) -> None:
    a, b = recorded("ar"), recorded("ar", seed=9)
    first, second = diff_trails([a, a], [a, b, b])
    assert (first.number, second.number, second.round) == (2, 3, None)
    assert [(one.field, one.a, one.b) for one in second.differences] == [("call", MISSING, b.call)]
    (gone,) = diff_trails([a], [])
    assert gone.b == MISSING


def test_table(recorded: Recorded) -> None:
    console = Console(record=True, width=160, file=StringIO())
    console.print(diffs_table(diff_trails([recorded("ar", seed=1)], [recorded("ar", seed=2, step="[odd]")])))
    shown = console.export_text()
    assert "sampling.seed" in shown
    assert "[odd]" in shown
