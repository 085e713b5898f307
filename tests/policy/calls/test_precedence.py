"""Calls without a step follow the same chain as steps: package table, file, session, `using`, call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import trimode as tm
from trimode.policy import cache_file
from trimode.policy.calls import calibrate
from trimode.policy.calls import engine as calls_engine
from trimode.policy.calls.engine import Engine
from trimode.policy.calls.fake_engine import FakeEngine
from trimode.policy.calls.result import Result
from trimode.policy.selection.auto import Auto
from trimode.policy.selection.cost_model import CostModel, Curve
from trimode.policy.selection.offers import Weights
from trimode.policy.selection.policies import CHOICE_REASON, PACKAGE_POLICY, Policy
from trimode.policy.selection.settings import Settings

LEVEL = Curve((1.0, 64.0), (0.01, 0.01))
Way = Callable[[Engine], Result]


def streamed(events: Iterator[tm.StreamEvent]) -> Result:
    *_, last = events
    assert last.result is not None
    return last.result


def astreamed(events: AsyncIterator[tm.StreamEvent]) -> Result:
    async def read() -> Result:
        found = [event async for event in events]
        assert found[-1].result is not None
        return found[-1].result

    return asyncio.run(read())


WAYS: dict[str, Way] = {
    "generate": lambda engine: engine.generate("x"),
    "agenerate": lambda engine: asyncio.run(engine.agenerate("x")),
    "stream": lambda engine: streamed(engine.stream("x")),
    "astream": lambda engine: astreamed(engine.astream("x")),
}


@pytest.fixture
def fake() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("way", WAYS)
def test_each_layer_is_stronger_than_the_ones_before(fake: FakeEngine, here: Path, way: str) -> None:
    ask = WAYS[way]
    assert ask(fake).plan.reason == "ar: policy 'trimode' for prose steps"
    (here / "trimode.toml").write_text('[kinds.prose]\nmode = "linear_spec"\nblock_length = 5\nmax_tokens = 40\n')
    plan = ask(fake).plan
    assert (plan.reason, plan.settings.block_length) == ("linear_spec: policy 'trimode.toml' for prose steps", 5)
    with tm.session(fake):
        assert ask(fake).plan.reason == plan.reason
    with tm.session(fake, policy=Policy(name="mine", kinds={"prose": Settings(mode="ar")})):
        assert ask(fake).plan.reason == "ar: policy 'mine' for prose steps"
        with tm.using(mode="quadratic_spec", rows=1):
            inner = ask(fake).plan
    assert (inner.reason, inner.settings.rows) == ("quadratic_spec: using(mode='quadratic_spec', rows=1)", 1)
    with tm.using(mode="quadratic_spec"):  # without a session
        outside = ask(fake).plan
        called = fake.generate("x", mode="ar").plan
    assert (outside.mode, outside.settings.max_tokens) == ("quadratic_spec", 40)
    assert called.reason == "ar: call argument"
    assert ask(fake).plan.mode == "linear_spec"


def test_a_table_may_name_the_function_that_was_called(fake: FakeEngine, here: Path) -> None:
    (here / "shop.toml").write_text('name = "shop"\n[steps.stream]\nmode = "linear_spec"\n')
    with tm.session(fake, policy=here / "shop.toml"):
        assert fake.generate("x").plan.mode == "ar"
        assert WAYS["stream"](fake).plan.reason == "linear_spec: policy 'shop' (shop.toml) for step 'stream'"


def test_a_changed_file_is_read_again(fake: FakeEngine, here: Path) -> None:
    file = here / "trimode.toml"
    for mode in ("linear_spec", "quadratic_spec"):
        file.write_text(f'[kinds.prose]\nmode = "{mode}"\n')
        assert fake.generate("x").plan.mode == mode
    file.unlink()
    (here / "pyproject.toml").write_text('[tool.trimode.kinds.prose]\nmode = "linear_spec"\n')
    assert fake.generate("x").plan.reason == "linear_spec: policy 'pyproject.toml' for prose steps"
    (here / "pyproject.toml").write_text("[tool.other]\n")
    assert fake.generate("x").plan.policy is PACKAGE_POLICY


@pytest.mark.parametrize(
    "ask",
    [*WAYS.values(), lambda engine: engine.choice(["a", "b"], "x"), lambda engine: engine.infill("a", "b")],
)
def test_a_broken_file_is_an_error_for_every_call(fake: FakeEngine, here: Path, ask: Callable[[Engine], Any]) -> None:
    (here / "trimode.toml").write_text('[kinds.prose]\nmode = "turbo"\n')
    for _ in range(2):  # an error is not remembered as "no file"
        with pytest.raises(tm.PolicyError, match=r"trimode\.toml:2: \[kinds\.prose\]: unknown mode 'turbo'"):
            ask(fake)


def test_a_choice_names_itself_and_says_what_has_no_part_in_it(fake: FakeEngine) -> None:
    seen: list[Any] = []

    def answer(call: Any) -> str:
        seen.append(call)
        return "b"

    fake.answers["choice"] = answer
    with tm.session(fake), tm.using(mode="quadratic_spec", temperature=0.5):
        assert fake.choice(["a", "b"], "x").text == "b"
        assert asyncio.run(fake.achoice(["a", "b"], "x")).text == "b"
    assert [call.plan.reason for call in seen] == [CHOICE_REASON] * 2
    assert {call.plan.settings.temperature for call in seen} == {0.5}


def test_an_infill_follows_the_chain_in_all_but_its_mode(reference: Engine, here: Path) -> None:
    assert reference.infill("Once", " time").plan.settings.max_tokens == 16
    (here / "trimode.toml").write_text("[steps.infill]\nmax_tokens = 5\nseed = 7\n")
    with tm.session(reference) as session, tm.using(threshold=0.4, stop="x", mode="ar"):
        found = reference.infill("Once", " time")
        own = reference.infill("Once", " time", 6)
    assert (found.plan.settings.max_tokens, found.plan.settings.seed, found.plan.settings.threshold) == (5, 7, 0.4)
    assert own.plan.settings.max_tokens == 6
    assert found.plan.reason == "diffusion: infill(), which fills a block"
    assert "stop=('x',) has no part in an infill: one block is filled between two texts" in found.notes
    assert session.spent.tokens == len(found.token_ids) + len(own.token_ids)
    with tm.using(exact=True), pytest.raises(tm.PolicyError, match="exact=True, but infill"):
        reference.infill("Once", " time")


@pytest.mark.parametrize("way", WAYS)
def test_a_session_counts_and_cuts_calls_of_engines_too(fake: FakeEngine, way: str) -> None:
    with tm.session(fake, budget=tm.Budget(tokens=6)) as session:
        first = WAYS[way](fake)
        cut = f"max_tokens=256 cut to the {6} tokens that the session's budget leaves"
        assert cut in first.notes
        assert session.spent.tokens == len(first.token_ids) > 0
        assert not session.results  # those of steps
        while session.spent.tokens < 6:
            WAYS[way](fake)
        with pytest.raises(tm.BudgetExceeded):
            WAYS[way](fake)
        assert session.spent.tokens == 6


def test_another_engine_counts_in_the_session_around_it(fake: FakeEngine) -> None:
    other = FakeEngine()
    with tm.session(fake, policy=Policy(name="mine", kinds={"prose": Settings(mode="linear_spec")})) as session:
        assert other.generate("x").plan.reason == "linear_spec: policy 'mine' for prose steps"
    assert session.spent.passes > 0


def test_auto_is_that_of_the_engine_which_is_called(
    fake: FakeEngine, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FakeEngine()
    mine, its = (Auto(CostModel(LEVEL, LEVEL, 0.0)) for _ in range(2))
    its.path = here / "auto.json"
    monkeypatch.setitem(fake.__dict__, "auto", mine)
    monkeypatch.setitem(other.__dict__, "auto", its)
    with tm.session(fake, policy="auto"):
        assert fake.generate("x").plan.policy is mine
        assert other.generate("x").plan.policy is its
    assert (mine.learned.calls, its.learned.calls) == (1, 1)
    assert its.path.is_file()  # what the other engine learned is kept like the session's own


def test_a_cost_that_was_measured_before_settles_whether_speculation_is_offered(
    reference: Engine, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = vars(Engine)["weights"].func  # without keeping it on the engine that tests share
    monkeypatch.setattr(calls_engine, "known_cost", calibrate.known_cost)
    monkeypatch.setenv("TRIMODE_CACHE", str(here))
    monkeypatch.setattr(calibrate, "measure", lambda *_: pytest.fail("nothing may be measured for the table"))
    assert weights(reference).cost is None
    steep = Curve((1.0, 64.0), (0.0003, 0.0077))
    slow = CostModel(steep, steep, 0.0)
    cache_file.write(calibrate.cost_path(reference.tokens, reference.runtime), "cost", slow.as_dict())
    found = weights(reference)
    assert (found.cost, found.modes) == (slow, reference.tokens.model.config.family.modes)
    monkeypatch.setitem(reference.__dict__, "weights", found)
    unit = reference.generate("Measure:", schema={"enum": ["cm", "m"]}, max_tokens=8)
    assert unit.plan.mode == "ar"
    assert "linear_spec cannot pay on this machine" in unit.plan.reason
    assert reference.generate("Measure:", schema={"enum": ["cm", "m"]}, max_tokens=8, mode="linear_spec").valid


def test_steps_know_the_weights_too(fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fake.__dict__, "weights", Weights(name="Qwen3ForCausalLM", modes=("ar",)))

    @tm.step("json")
    def unit() -> dict[str, int]:
        """Measure."""
        ...

    with tm.session(fake):
        assert unit.result().plan.reason.endswith("Qwen3ForCausalLM weights have no linear_spec")


def test_a_removed_working_directory_is_one_without_a_file(
    fake: FakeEngine, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = here / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert fake.generate("x").plan.policy is PACKAGE_POLICY
    with tm.session(fake):
        assert fake.generate("x").plan.policy is PACKAGE_POLICY
    (here / "kept.toml").write_text('[kinds.prose]\nmode = "linear_spec"\n')
    assert Policy.from_toml(here / "kept.toml").name == str(here / "kept.toml")
