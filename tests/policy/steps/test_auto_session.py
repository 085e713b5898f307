"""`policy="auto"` with the engine: the tokens of `ar`, switches on spans and in records, deadlines, kept statistics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loaded import SHORT
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import trimode as tm
from trimode.engine.forward.graphs import Buckets, Eager, Graphs
from trimode.engine.kv_cache.pages import PagePool
from trimode.engine.options import AdaptiveOptions, LinearSpecOptions
from trimode.kernels.ops import cache_folder
from trimode.policy import cache_file as store
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls import calibrate
from trimode.policy.calls.calibrate import DRAFTED, Shape, calibrated, measure, path_of, shapes
from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine
from trimode.policy.selection.auto import Auto
from trimode.policy.selection.cost_model import CostModel, Curve, Measurement
from trimode.policy.selection.evidence import Evidence
from trimode.policy.selection.policies import StepContext, resolve
from trimode.policy.selection.posterior import levels
from trimode.policy.selection.settings import Settings
from trimode.policy.selection.variants import ADAPTED, VARIANTS, Variant

FLAT = Curve((1, 64), (0.001, 0.0011))
TALK = StepContext(kind="prose", name="talk")
FREE_ROWS = CostModel(FLAT, FLAT, 0.0)


@tm.step("json", schema=SHORT, max_tokens=40)
def unit(thing: str) -> dict[str, Any]:
    """Measure {thing}."""
    ...


@tm.step("prose", max_tokens=40)
def talk(thing: str) -> str:
    """Say something about {thing}."""
    ...


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.mode != "diffusion"], ids=str)
def test_every_variant_gives_the_tokens_of_ar(reference: Engine, variant: Variant) -> None:
    auto = Auto(FREE_ROWS, variants=(Variant("ar"), variant))
    with tm.session(reference, policy=auto), tm.using(temperature=0.7, seed=3):
        mine = [unit.result("a table"), talk.result("a table")]
    with tm.session(reference, policy=tm.Policy()), tm.using(mode="ar", temperature=0.7, seed=3):
        assert [one.token_ids for one in mine] == [unit.result("a table").token_ids, talk.result("a table").token_ids]
    assert auto.learned.calls == 2
    assert all(one.plan.policy is auto and one.plan.exact for one in mine)


def deceived() -> Auto:
    """A policy that believes in drafts of 16 tokens, which have to make 8 decisions a round to pay."""
    curve = Curve((1, 16), (0.001, 0.004))
    auto = Auto(CostModel(curve, curve, 0.0), variants=(Variant("linear_spec", 16), Variant("ar")))
    auto.learned.spent = 1.0  # and has nothing left for trying others
    drafts = {"linear_spec": [500.0] * 15}
    for key in levels(TALK, 1.0):
        auto.learned.evidence[key] = Evidence(calls=15, decisions=600, prompt=600, trials=drafts, hits=drafts)
    return auto


def test_a_call_that_does_not_pay_is_switched_and_says_why(
    reference: Engine, spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    auto = deceived()
    path = tmp_path / "audit.jsonl"
    with tm.session(reference, policy=auto, trace=f"file:{path}"), tm.using(temperature=1.0, seed=1, max_tokens=120):
        result = talk.result("the sea")
    with tm.session(reference, policy=tm.Policy()), tm.using(mode="ar", temperature=1.0, seed=1, max_tokens=120):
        assert talk.result("the sea").token_ids == result.token_ids
    assert result.plan.mode == "linear_spec"
    switched = [made for made in result.trace if made.switch]
    assert [made.mode for made in switched] == ["ar"]
    assert "under break-even" in switched[0].switch
    assert verify(path) == []
    (record,) = records(read_audit(path))
    assert [made.switch for made in record.rounds if made.switch] == [switched[0].switch]
    assert record.options == {"mode": "linear_spec", "block_length": 16, "exact_first": True}
    assert record.policy.name == "auto"
    assert record.policy.sha256 == auto.sha256
    found = [span for span in spans.get_finished_spans() if span.name.startswith("decode")][:2]
    assert [span.name for span in found] == ["decode linear_spec", "decode ar"]
    attributes = dict(found[1].attributes or {})
    assert attributes["trimode.switch.from"] == "linear_spec"
    assert attributes["trimode.switch.to"] == "ar"
    assert attributes["trimode.switch.reason"] == switched[0].switch


def test_the_options_of_an_adaptive_call(reference: Engine) -> None:
    plan = resolve(TALK, (deceived(),), [("call", Settings(temperature=1.0))])
    assert plan.controller is not None
    request = reference.translator.request(Call(step="talk", kind="prose", plan=plan, prompt="x"))
    first = LinearSpecOptions(block_length=16, exact_first=True)
    assert request.options == AdaptiveOptions(first=first, controller=plan.controller)
    assert request.first_options == first


def test_tasks_share_one_policy(reference: Engine) -> None:
    auto = Auto(FREE_ROWS)

    @tm.step("prose", max_tokens=12)
    async def say(thing: str) -> str:
        """Say something about {thing}."""
        ...

    async def several(policy: Any) -> list[tm.Result]:
        with tm.session(reference, policy=policy):
            return list(await asyncio.gather(*(say.result(str(number)) for number in range(6))))

    mine = asyncio.run(several(auto))
    plain = asyncio.run(several(tm.Policy()))
    assert [one.token_ids for one in mine] == [one.token_ids for one in plain]
    assert auto.learned.calls == 6
    assert max(one.plan.context.others for one in mine) > 0


def test_a_deadline_without_a_policy(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reference.__dict__, "auto", Auto(FREE_ROWS))
    late = reference.generate("one two", max_tokens=8, deadline=1e-6)
    assert late.plan.reason.startswith(f"{late.plan.mode}:")
    assert "policy 'auto'" in late.plan.reason
    expected, missed = (note for note in late.notes if "deadline" in note)
    assert "not expected to hold" in expected
    assert missed.startswith("deadline of 1e-06 s missed: the call took")
    calm = reference.generate("one two", max_tokens=8, deadline=1e6)
    assert not [note for note in calm.notes if "deadline" in note]
    named = reference.generate("one two", max_tokens=8, deadline=1e6, mode="ar")
    assert named.plan.reason == "ar: call argument"
    assert late.token_ids == calm.token_ids == named.token_ids
    with pytest.raises(tm.PolicyError, match="deadline=0: expected seconds"):
        reference.generate("x", deadline=0)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIMODE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_session_keeps_what_it_learned(reference: Engine, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = path_of("auto", reference.runtime)
    assert path.parent == own_cache == cache_folder()
    monkeypatch.setitem(reference.__dict__, "auto", Auto.kept(FREE_ROWS, ("ar",), path))
    with tm.session(reference, policy="auto"):
        unit("a table")
        assert not path.exists()
    assert Auto.kept(FREE_ROWS, ("ar",), path).learned == reference.auto.learned
    assert reference.auto.learned.calls == 1


def test_the_cost_model_is_measured_once(reference: Engine, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[float] = []

    def counted(*_: object) -> list[Measurement]:
        runs.append(1)
        return [Measurement(rows=rows, context=64, adapter=False, seconds=rows * 1e-3) for rows in (1, 4)]

    monkeypatch.setattr(calibrate, "measure", counted)
    model = calibrated(reference.tokens, reference.runtime)
    assert calibrated(reference.tokens, reference.runtime) == model
    assert len(runs) == 1
    path = path_of("cost", reference.runtime)
    assert list(own_cache.iterdir()) == [path]
    path.write_text('{"format": 1, "kind": "cost", "content": {"plain": {"rows": [1], "seconds": [1]}}}')
    with pytest.warns(store.CacheWarning, match="cannot be used"):
        assert calibrated(reference.tokens, reference.runtime) == model
    others = [replace(reference.runtime, **{name: "x"}) for name in ("model_sha256", "dtype", "kernels")]
    others_of = {path_of("cost", other) for other in others} | {path_of("cost", reference.runtime, "CUDA graphs")}
    assert len({path, *others_of}) == 5


def ticks() -> Callable[[], float]:
    """A clock that goes on by a second each time it is read."""
    count = iter(range(10**9))
    return lambda: float(next(count))


def test_what_is_measured(reference: Engine) -> None:
    found = measure(reference.tokens, budget=0.0, clock=ticks())
    measured, loops = [one for one in found if not one.loop], [one for one in found if one.loop]
    assert [one.calls == 1 for one in loops] == [True, False]
    assert all(one.rows == one.calls and 0 < one.seconds < 1 for one in loops)
    made = [Shape(int(one.rows), one.context, bool(one.adapter), one.calls) for one in measured]
    assert set(made) == set(shapes(reference.tokens))
    assert len(made) == len(set(made))
    assert all(one.seconds == 1.0 for one in measured)
    assert {one.adapter for one in measured} == {True, False}


def test_drafted_loops_are_measured_where_passes_are_quick(reference: Engine) -> None:
    """For each of DRAFTED, with its rows on average and the part of its passes that takes the adapter."""
    found = [one for one in measure(reference.tokens, budget=10.0, clock=ticks()) if one.loop]
    plain, several, *drafted = found[: 2 + len(DRAFTED)]
    assert (plain.rows, plain.calls, several.calls > 1) == (1, 1, True)
    assert [one.adapter for one in drafted] == [ADAPTED[options.mode] for options in DRAFTED]
    assert all(one.calls == 1 and 0 < one.seconds < 1 for one in drafted)
    assert all(
        1 < one.rows <= (options.block_length or 0) + 1
        for one, options in zip(drafted, DRAFTED, strict=True)
        if isinstance(options, LinearSpecOptions)
    )


def test_passes_are_measured_as_they_run(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over static buffers, on pages of their own, where the engine runs its passes so."""
    tokens = reference.tokens
    graphs = Graphs(tokens.runner, tokens.pool, Buckets(rows=(1, 8, 64), tiles=(16,)), Eager())
    monkeypatch.setattr(tokens, "graphs", graphs)
    made: list[Graphs] = []
    over = graphs.over

    def noted(pool: PagePool) -> Graphs:
        made.append(over(pool))
        return made[-1]

    monkeypatch.setattr(graphs, "over", noted)
    measured = measure(tokens, budget=0.0)
    (theirs,) = made
    assert theirs.pool is not tokens.pool
    assert theirs.replayed >= 2 * sum(not one.loop for one in measured)
    assert theirs.unfit.total() == 0


def test_diffusion_is_left_out_unless_allowed(reference: Engine) -> None:
    auto = Auto(FREE_ROWS, variants=(Variant("ar"), Variant("diffusion", 8)))
    assert resolve(TALK, (auto,), ()).mode == "ar"
    with tm.session(reference, policy=auto), tm.using(exact=False):
        modes = {talk.result("x").plan.mode for _ in range(4)}
    assert modes <= {"ar", "diffusion"}
    table = auto.table(TALK, Settings(), exact=False)
    assert {variant.mode for variant, _ in table} == {"ar", "diffusion"}
