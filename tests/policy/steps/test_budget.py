"""Session budgets: what is counted, what is cut, and what cannot start."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loaded import SHORT

import trimode as tm
from trimode.engine.result import Mode
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls.arguments import call_of
from trimode.policy.calls.engine import Engine
from trimode.policy.replay.decode_again import replay
from trimode.policy.steps.budget import Ledger, Spent, fitted
from trimode.testing import FakeEngine

LONG = " ".join(["word"] * 200)


@tm.step("prose", mode="ar", max_tokens=30)
def say(text: str) -> str:
    """{text}"""
    ...


@tm.step("prose", mode="ar", max_tokens=30)
async def tell(text: str) -> str:
    """{text}"""
    ...


@tm.step("json", schema=SHORT, max_tokens=40)
def measure(text: str) -> dict[str, object]:
    """{text}"""
    ...


@tm.step("choice")
def decide(text: str) -> Literal["yes", "no"]:
    """{text}"""
    ...


@pytest.fixture
def fake() -> FakeEngine:
    return FakeEngine({"say": LONG, "tell": LONG})


def test_without_a_budget_everything_is_counted(fake: FakeEngine) -> None:
    with tm.session(fake, policy=tm.Policy()) as session:
        say("x")
        list(say.stream("x"))
        asyncio.run(tell("x"))
        decide("x")
    assert session.spent == Spent(tokens=90, passes=91)


def test_tokens_are_cut_to_what_is_left_and_then_nothing_starts(fake: FakeEngine) -> None:
    with tm.session(fake, policy=tm.Policy(), budget=tm.Budget(tokens=40)) as session:
        assert say.result("x").notes == ()
        cut = say.result("x")
        assert (len(cut.token_ids), cut.finish_reason) == (10, "length")
        assert cut.notes == ("max_tokens=30 cut to the 10 tokens that the session's budget leaves",)
        with pytest.raises(
            tm.BudgetExceeded, match=r"step 'say' cannot start: 40 of the session's 40 tokens"
        ) as caught:
            say("x")
        decide("a choice is read, not written")
    error = caught.value
    assert (error.what, error.spent, error.allowed, error.step) == ("tokens", 40, 40, "say")
    assert session.spent.tokens == 40


@pytest.mark.parametrize("mode", ["ar", "linear_spec", "quadratic_spec", "diffusion"])
def test_passes_end_free_text_where_it_is(reference: Engine, tmp_path: Path, mode: Mode) -> None:
    path, step = tmp_path / "audit.jsonl", say.options(mode=mode, max_tokens=60)
    with tm.session(reference, policy=tm.Policy()):
        whole = step.result("Tell me about a restaurant and a train.")
    taken = whole.stats.prefill_passes + whole.stats.forward_passes
    allowed = taken - 2
    budget = tm.Budget(passes=allowed)
    with tm.session(reference, policy=tm.Policy(), budget=budget, trace=f"file:{path}", content=True) as session:
        cut = step.result("Tell me about a restaurant and a train.")
        with pytest.raises(tm.BudgetExceeded, match="passes"):
            step("x")
    assert session.spent.passes == allowed
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    assert cut.finish_reason == "length"
    assert cut.notes == (f"cut after {len(cut.token_ids)} tokens by the passes or seconds that were left to it",)
    assert verify(path) == []
    (record,) = records(read_audit(path))
    again = replay(record, reference)
    assert again.outcome in ("same", "path"), "the last draft may be shorter"
    if again.outcome == "path":
        assert again.causes == ("cut by a session's budget of passes or seconds then, by max_tokens now",)


def test_what_a_schema_holds_is_finished_and_the_overrun_noted(reference: Engine) -> None:
    with tm.session(reference, policy=tm.Policy(), budget=tm.Budget(passes=1)) as session:
        result = measure.result("the table")
        assert result.valid
        (note,) = result.notes
        assert note.endswith("passes where the session's budget left 1: what a schema holds is not cut")
        with pytest.raises(tm.BudgetExceeded, match="passes"):
            decide("x")
    assert session.spent.passes > 1


def test_a_schema_is_never_cut_below_its_shortest_text() -> None:
    with tm.session(FakeEngine({"say": LONG}), policy=tm.Policy(), budget=tm.Budget(tokens=33)) as session:
        say("x")
        with pytest.raises(tm.BudgetExceeded, match="'measure' cannot start: 30 of the session's 33 tokens") as caught:
            measure("x")
        with pytest.raises(tm.BudgetTooSmall):
            measure.options(max_tokens=2)("x")
    assert isinstance(caught.value.__cause__, tm.BudgetTooSmall)
    assert session.spent.tokens == 30


def test_seconds(reference: Engine) -> None:
    with tm.session(reference, policy=tm.Policy(), budget=tm.Budget(seconds=1e-6)) as session:
        cut = say.result("Hello")
        assert len(cut.token_ids) <= 1, "the first pass is over before anyone looks at the clock"
        with pytest.raises(tm.BudgetExceeded, match="seconds"):
            say("x")
    assert session.spent.seconds > 1e-6


def test_steps_side_by_side_share_the_tokens(reference: Engine) -> None:
    async def together() -> list[tm.Result | BaseException]:
        return await asyncio.gather(*(tell.result("Hello") for _ in range(3)), return_exceptions=True)

    with tm.session(reference, policy=tm.Policy(), budget=tm.Budget(tokens=50)) as session:
        results = asyncio.run(together())
    first, second, third = results
    assert isinstance(first, tm.Result)
    assert isinstance(second, tm.Result)
    assert second.notes[0] == "max_tokens=30 cut to the 20 tokens that the session's budget leaves"
    assert isinstance(third, tm.BudgetExceeded), "30 and 20 are reserved while the others run"
    assert session.spent.tokens == len(first.token_ids) + len(second.token_ids)


def test_failed_calls_give_their_reservation_back() -> None:
    fake = FakeEngine({"say": MemoryError("out")})
    with tm.session(fake, policy=tm.Policy(), budget=tm.Budget(tokens=30)) as session:
        for _ in range(2):
            with pytest.raises(MemoryError):
                say("x")
    assert session.spent.tokens == 0
    assert session.spent.seconds > 0


def test_thinking_needs_room_for_an_answer(fake: FakeEngine) -> None:
    with (
        tm.session(fake, policy=tm.Policy(), budget=tm.Budget(tokens=8)),
        pytest.raises(tm.BudgetExceeded, match="tokens"),
    ):
        say.options(max_thinking_tokens=8)("x")


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"passes": -1}, {"seconds": math.nan}, {"tokens": True}])
def test_budgets_that_are_none(wrong: dict[str, int]) -> None:
    with pytest.raises(tm.PolicyError, match=r"Budget\(.*expected a (whole )?number above 0"):
        tm.Budget(**wrong)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.integers(1, 200), st.lists(st.tuples(st.integers(1, 80), st.integers(0, 80)), max_size=8))
def test_the_tokens_never_pass_the_budget(allowed: int, calls: list[tuple[int, int]]) -> None:
    ledger = Ledger(tm.Budget(tokens=allowed))
    for wanted, used in calls:
        call = call_of("generate", "x", max_tokens=wanted)
        try:
            with ledger.spending(call) as spending:
                granted = spending.call.plan.settings.max_tokens or 0
                assert 1 <= granted <= wanted
                spending.cost = Spent(tokens=min(used, granted))
        except tm.BudgetExceeded:
            assert ledger.spent.tokens == allowed
    assert ledger.spent.tokens <= allowed


def test_what_fits_is_left_alone() -> None:
    call = call_of("generate", "x", max_tokens=5)
    assert fitted(call, tm.Budget(), Spent()) == call
    assert fitted(call, tm.Budget(tokens=9), Spent(tokens=4)) == call
