"""The learner in simulated worlds, where the best mode is known: it finds it, pays little for that, and follows drift.

A world has a true price of a pass, which may differ from the model by mode, and true acceptance by step; calls are
played round by round, the policy's controller asked between them as the engine asks it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimode.engine.options import ArOptions, ExactOptions, LinearSpecOptions, LookupSpecOptions, QuadraticSpecOptions
from trimode.engine.result import EXACT, DecodeResult, Mode, ModeRun, Rejected, Round, Stats
from trimode.policy import cache_file as store
from trimode.policy.errors import PolicyError
from trimode.policy.selection.auto import Auto
from trimode.policy.selection.cost_model import CostModel, Curve
from trimode.policy.selection.evidence import Observation, observed
from trimode.policy.selection.exploration import GRACE, SHARE, explored, loss_of
from trimode.policy.selection.policies import DecodePlan, Policy, StepContext, resolve
from trimode.policy.selection.posterior import FADING, HORIZON, KEYS, Learned, levels, step_of
from trimode.policy.selection.pricing import Cost
from trimode.policy.selection.settings import Settings, options_of
from trimode.policy.selection.switching import Breakeven
from trimode.policy.selection.variants import VARIANTS, Variant


def machine(*points: tuple[float, float]) -> CostModel:
    curve = Curve(*zip(*points, strict=True))
    return CostModel(curve, curve, 0.0)


CPU: Final = machine((1, 0.7e-3), (8, 1.8e-3), (64, 12e-3))
GPU: Final = machine((1, 5e-3), (64, 5.2e-3), (256, 20e-3))
ACT: Final = StepContext(kind="tool_call", name="act", schema_sha256="a" * 64)


@dataclass
class World:
    """`chance`: of a draft decision to be accepted, at every place of the draft; `match`: of a round of lookup_spec to
    find something to copy; `slow`: by mode, truth over model."""

    model: CostModel
    chance: float
    decisions: int = 30
    match: float = 0.0
    slow: Mapping[str, float] = field(default_factory=dict[str, float])
    noise: float = 0.1
    rng: random.Random = field(default_factory=lambda: random.Random(5))

    def price(self, variant: Variant, others: int = 0, games: int = 60) -> float:
        """True mean seconds of a call in one mode."""
        options = options_of(variant.mode, variant.settings)
        assert isinstance(options, ExactOptions)
        other = replace(self, rng=random.Random(7), noise=0.0)
        played = [other.play(options, None, others).stats for _ in range(games)]
        return sum(stats.seconds - stats.prefill_seconds for stats in played) / games

    def best(self, others: int = 0) -> float:
        return min(self.price(variant, others) for variant in VARIANTS if variant.mode != "diffusion")

    def decode(self, plan: DecodePlan) -> DecodeResult:
        options = options_of(plan.mode, plan.settings)
        assert isinstance(options, ExactOptions)
        controller = plan.controller
        assert controller is None or isinstance(controller, Breakeven)
        return self.play(options, controller, plan.context.others)

    def play(self, options: ExactOptions, controller: Breakeven | None, others: int) -> DecodeResult:
        rounds, seconds, rows = [Round(mode=options.mode, tokens=(1,), origins="c")], 0.0, 0
        left, ready, switch = self.decisions - 1, False, ""
        stretches: dict[Mode, ModeRun] = {}
        while left > 0:
            before = options
            if controller is not None and (found := controller(rounds, options)) is not None:
                options, switch = found.options, found.reason
            ready = ready and before is options
            limit = 0 if isinstance(options, ArOptions) else (options.block_length or 0) - 1
            if isinstance(options, QuadraticSpecOptions) and not ready:
                limit = 0
            if isinstance(options, LookupSpecOptions) and self.rng.random() >= self.match:
                limit = 0
            limit = min(limit, left - 1)
            took = next((at for at in range(limit) if self.rng.random() > self.chance), limit)
            passes, width, ready = self._passes(options, limit, took)
            slow = self.slow.get(options.mode, 1.0) * self.rng.lognormvariate(0, self.noise)
            took_now = sum(self.model.seconds(each * (1 + others)) for each in width) * slow
            seconds += took_now
            rows += sum(width)
            _extend(stretches, options.mode, width, others, took_now)
            rejected = (Rejected(token=2, reason="target"),) * (limit - took)
            rounds.append(
                Round(
                    mode=options.mode,
                    tokens=(1,) * (took + 1),
                    origins="a" * took + "c",
                    drafted=limit,
                    rejected=rejected,
                    forward_passes=passes,
                    switch=switch,
                )
            )
            left, switch = left - took - 1, ""
        return DecodeResult(
            token_ids=(1,) * self.decisions,
            text="",
            finish_reason="stop",
            rounds=tuple(rounds),
            stats=_stats(rounds, seconds, rows, tuple(stretches.values())),
        )

    def _passes(self, options: ExactOptions, limit: int, took: int) -> tuple[int, list[int], bool]:
        """Passes of a round, their rows, and whether the next one has a draft."""
        if isinstance(options, ArOptions):
            return 1, [1], False
        if isinstance(options, LookupSpecOptions):
            return 1, [1 + limit], False
        length = options.block_length or 0
        if isinstance(options, LinearSpecOptions):
            return 2, [length, length], False
        points = sorted({limit, *range(limit if options.rows is None else min(options.rows - 1, limit))})
        return 1, [1 + limit + len(points) * length], took in points


def _extend(stretches: dict[Mode, ModeRun], mode: Mode, width: list[int], others: int, seconds: float) -> None:
    """The others do as this call does."""
    before = stretches.get(mode) or ModeRun(mode=mode, passes=0, rows=0, pass_rows=0, pass_calls=0, seconds=0.0)
    stretches[mode] = ModeRun(
        mode=mode,
        passes=before.passes + len(width),
        rows=before.rows + sum(width),
        pass_rows=before.pass_rows + sum(width) * (1 + others),
        pass_calls=before.pass_calls + len(width) * (1 + others),
        seconds=before.seconds + seconds,
    )


def _stats(rounds: list[Round], seconds: float, rows: int, stretches: tuple[ModeRun, ...]) -> Stats:
    origins = "".join(made.origins for made in rounds)
    return Stats(
        prompt_tokens=50,
        cached_tokens=40,
        output_tokens=len(origins),
        prefill_passes=1,
        forward_passes=sum(made.forward_passes for made in rounds),
        drafted=sum(made.drafted for made in rounds),
        accepted=origins.count("a"),
        corrected=origins.count("c"),
        forced=0,
        repaired=0,
        seconds=seconds + 0.01,
        prefill_seconds=0.01,
        query_tokens=rows,
        mode_runs=stretches,
    )


def play(auto: Auto, world: World, calls: int, context: StepContext = ACT) -> list[float]:
    """True seconds of successive calls."""
    found = []
    for _ in range(calls):
        plan = auto.resolve(context)
        result = world.decode(plan)
        auto.observe(plan, result)
        found.append(result.stats.seconds - result.stats.prefill_seconds)
    return found


WORLDS: Final[dict[str, Callable[[], World]]] = {
    "cpu, poor drafts": lambda: World(CPU, 0.4),
    "cpu, good drafts": lambda: World(CPU, 0.97),
    "gpu, poor drafts": lambda: World(GPU, 0.1),
    "gpu, good drafts": lambda: World(GPU, 0.9),
    "gpu, short outputs": lambda: World(GPU, 0.9, decisions=5),
    "drafting slower than the model says": lambda: World(GPU, 0.6, slow={"linear_spec": 3.0, "quadratic_spec": 3.5}),
    "drafting quicker than the model says": lambda: World(CPU, 0.8, slow={"linear_spec": 0.4, "quadratic_spec": 0.9}),
    "cpu, much to copy": lambda: World(CPU, 0.8, match=0.8),
    "gpu, something to copy": lambda: World(GPU, 0.6, match=0.5),
    "everything slower": lambda: World(CPU, 0.6, slow=dict.fromkeys(EXACT, 5.0)),
}


def test_after_fifty_calls_it_is_as_good_as_the_best_fixed_mode() -> None:
    """Of what the best one would have taken: in every world nearly all, and over all of them at least 0.97."""
    shares: list[float] = []
    for world in (found() for found in WORLDS.values() for _ in range(2)):
        auto = Auto(world.model, seed=len(shares))
        play(auto, world, 50)
        later = play(auto, world, 100)
        shares.append(world.best() / (sum(later) / len(later)))
        assert shares[-1] >= 0.9
    assert sum(shares) / len(shares) >= 0.97


@pytest.mark.parametrize(("model", "match", "chance", "mode"), [
    (GPU, 0.6, 0.6, "lookup_spec"), (CPU, 0.8, 0.8, "lookup_spec"), (CPU, 0.9, 0.1, "ar"), (CPU, 0.0, 0.9, "ar"),
])  # fmt: skip
def test_weights_that_cannot_draft_copy_where_it_pays(
    model: CostModel, match: float, chance: float, mode: Mode
) -> None:
    auto, world = Auto(model, modes=("ar", "lookup_spec")), World(model, chance, match=match)
    play(auto, world, 60)
    modes = [plan.mode for plan in (auto.resolve(ACT) for _ in range(20))]
    assert modes.count(mode) >= 18
    load = auto.learned.workload(ACT, 0.0, 256)
    assert mode == "ar" or abs(load.match - match) < 0.15


def test_counts_of_earlier_versions_are_read() -> None:
    """Files that know nothing of copies: what they hold of other modes is kept."""
    auto = Auto(GPU)
    play(auto, World(GPU, 0.9), 5)
    written = json.loads(json.dumps(auto.learned.as_dict()))
    for counts in written["evidence"].values():
        for name in ("lookups", "matches", "copies", "ends"):
            del counts[name]
    found = Learned.of(written)
    assert found.workload(ACT, 0.0, 256).acceptance["linear_spec"]
    assert found.calls == 5


@pytest.mark.parametrize("name", WORLDS)
def test_learning_costs_little(name: str) -> None:
    world = WORLDS[name]()
    auto = Auto(world.model)
    took = play(auto, world, 200)
    learned = auto.learned
    assert learned.spent <= SHARE * learned.total + (GRACE + 1) * max(took)
    assert sum(took) <= 1.1 * len(took) * world.best()


@pytest.mark.parametrize(("before", "after"), [(0.95, 0.05), (0.05, 0.95)])
@pytest.mark.parametrize("model", [GPU, CPU], ids=["gpu", "cpu"])
def test_a_swapped_workload_is_believed_within_fifty_calls(before: float, after: float, model: CostModel) -> None:
    shares: list[float] = []
    for seed in range(4):
        auto = Auto(model, seed=seed)
        play(auto, World(model, before, rng=random.Random(seed)), 100)
        world = World(model, after, rng=random.Random(seed + 50))
        play(auto, world, 50)
        later = play(auto, world, 60)
        shares.append(world.best() / (sum(later) / len(later)))
    assert sum(shares) / len(shares) >= 0.93


def test_steps_are_told_apart_and_new_ones_take_after_their_kind() -> None:
    auto, world = Auto(GPU), World(GPU, 0.95)
    talk = StepContext(kind="prose", name="talk")
    for _ in range(30):
        play(auto, World(GPU, 0.95), 1)
        play(auto, World(GPU, 0.02), 1, talk)
    for context in (ACT, replace(ACT, name="other")):
        assert world.price(auto.table(context, Settings(temperature=0.0))[0][0]) <= 1.05 * world.best()
    wide, narrow = (
        auto.learned.workload(c, 0.0, 256).acceptance["quadratic_spec"][0] for c in (ACT, replace(talk, name="x"))
    )
    assert wide > 0.8 > 0.4 > narrow


def test_a_full_batch_takes_shorter_drafts() -> None:
    auto = Auto(GPU)
    play(auto, World(GPU, 0.9, decisions=60), 40)
    rows = []
    for others in (0, 7, 63):
        variant = auto.table(replace(ACT, others=others), Settings())[0][0]
        length = variant.block_length or 1
        rows.append(length * (variant.rows or 1 if variant.mode == "quadratic_spec" else 1))
    assert rows[0] > rows[1] >= rows[2] == 1


ROWS: Final = machine((1, 1e-3), (256, 256e-3))
"""Where rows are all that costs: a draft is at least computed and verified, so none can pay."""
KNEE: Final = machine((1, 1e-3), (8, 1.01e-3), (256, 249e-3))
"""Where eight rows cost hardly more than one, and each further one as much as a pass."""


def test_what_cannot_pay_is_never_tried_and_the_reason_says_so() -> None:
    auto, world = Auto(ROWS), World(ROWS, 1.0)
    for _ in range(60):
        plan = auto.resolve(ACT)
        assert plan.mode == "ar"
        auto.observe(plan, world.decode(plan))
    assert auto.learned.spent == 0
    assert auto.resolve(ACT).reason.endswith(
        "not tried, cannot pay even with every draft accepted: linear_spec, lookup_spec, quadratic_spec"
    )


def test_what_begins_to_be_worth_trying_is_tried() -> None:
    auto, world = Auto(KNEE), World(KNEE, 0.95)
    full = replace(ACT, others=15)
    play(auto, world, 60, full)
    assert auto.resolve(full).mode == "ar"
    assert "cannot pay even with every draft accepted" in auto.resolve(full).reason
    assert auto.learned.spent == 0
    play(auto, world, 30)
    later = play(auto, world, 30)
    assert world.best() / (sum(later) / len(later)) >= 0.9
    assert world.price(Variant("ar")) > 1.5 * world.best()


def test_a_try_has_to_be_worth_what_it_may_lose() -> None:
    good, poor = Cost(1.0, 1.0, 1, 1, (1, 1.0)), Cost(1.5, 1.5, 1, 1, (4, 1.5))
    ar, other = Variant("ar"), Variant("diffusion", 8)
    prices = {ar: good, other: poor}
    hope = {ar: good, other: good._replace(price=0.9)}
    faint = {ar: good, other: good._replace(price=1 - 0.4 / HORIZON)}
    assert explored(hope, prices, ar, remaining=0.6) == other
    assert explored(hope, prices, ar, remaining=0.4) == ar, "the loss of 0.5 is not within what is left"
    assert explored(faint, prices, ar, remaining=0.6) == ar, (
        "what it would save before it is forgotten is less than it loses"
    )


def test_a_try_loses_no_more_than_switching_allows() -> None:
    ar, draft = Variant("ar"), Variant("linear_spec", 8)
    prices = {ar: Cost(1.0, 1.0, 100, 100, (1, 0.01)), draft: Cost(9.0, 9.0, 100, 100, (1, 0.09))}
    assert loss_of(draft, prices, ar) == pytest.approx(3 * 0.09)
    assert loss_of(draft, {**prices, draft: Cost(1.1, 1.1, 9, 9, (7, 0.09))}, ar) == pytest.approx(0.1)


def test_a_plan_is_a_function_of_what_was_learned() -> None:
    def plans() -> list[DecodePlan]:
        auto, world = Auto(CPU, seed=3), World(CPU, 0.8)
        found = []
        for _ in range(30):
            plan = auto.resolve(ACT)
            assert plan == auto.resolve(ACT)
            auto.observe(plan, world.decode(plan))
            found.append(replace(plan, policy=Policy()))
        return found

    assert plans() == plans()


def test_reasons_say_what_was_weighed() -> None:
    auto = Auto(GPU)
    play(auto, World(GPU, 0.9), 40)
    plan = auto.resolve(replace(ACT, others=3))
    assert plan.reason.startswith(f"{plan.mode}:")
    for words in ("policy 'auto' expects", "linear_spec ", "recent calls of step 'act'", "3 other calls live"):
        assert words in plan.reason
    assert plan.policy is auto
    assert plan.forecast is not None
    assert plan.forecast.tokens_per_s > 0
    fresh = Auto(GPU)
    assert any("tried to learn" in _next(fresh).reason for _ in range(20))
    assert fresh.learned.spent > 0


def _next(auto: Auto) -> DecodePlan:
    plan = auto.resolve(ACT)
    auto.observe(plan, World(GPU, 0.9).decode(plan))
    return plan


def test_diffusion_only_where_it_is_allowed() -> None:
    quick = Learned()
    for _ in range(20):
        quick.add(ACT, 0.0, Observation(decisions=60, forced=0, prompt=10, prefilled=1, fills=600, denoises=20))
    auto = Auto(GPU, quick)
    assert auto.resolve(ACT).mode != "diffusion"
    allowed = resolve(ACT, (auto,), [("call argument", Settings(exact=False))])
    assert (allowed.mode, allowed.exact, allowed.controller) == ("diffusion", False, None)
    assert resolve(ACT, (auto,), [("call argument", Settings(exact=True))]).mode != "diffusion"


def test_who_names_a_mode_is_heard() -> None:
    auto = Auto(GPU)
    plan = resolve(ACT, (auto,), [("call argument", Settings(mode="ar"))])
    assert (plan.mode, plan.reason, plan.forecast) == ("ar", "ar: call argument", None)
    turned = resolve(ACT, (auto,), [("using", Settings(block_length=5))])
    assert turned.mode == "ar" or turned.settings.block_length == 5
    assert {v.block_length for v, _ in auto.table(ACT, Settings(block_length=5))} == {None, 5}


def test_weights_with_few_modes() -> None:
    only = Auto(GPU, modes=("ar",)).resolve(ACT)
    assert (only.mode, only.controller) == ("ar", None)
    with pytest.raises(PolicyError, match="found no way to decode: an exact mode"):
        Auto(GPU, modes=("diffusion",)).resolve(ACT)


def test_a_deadline_takes_the_fastest_and_says_when_it_cannot_hold() -> None:
    auto = Auto(GPU)
    play(auto, World(GPU, 0.9), 20)
    for seconds, notes in ((100.0, 0), (1e-4, 1)):
        plan = resolve(ACT, (auto,), [("call argument", Settings(deadline=seconds))])
        assert str(auto.table(ACT, Settings(temperature=0.0))[0][0]).startswith(plan.mode)
        assert plan.forecast is not None
        assert plan.forecast.regret == 0
        assert len(plan.notes) == notes
    assert "deadline of 0.0001 s is not expected to hold" in plan.notes[0]


def test_lock_freezes_the_table() -> None:
    auto = Auto(GPU)
    play(auto, World(GPU, 0.95), 40)
    talk = StepContext(kind="prose", name="talk")
    play(auto, World(GPU, 0.02), 40, talk)
    policy = auto.lock("ci")
    assert set(policy.steps) == {"act", "talk"}
    assert set(policy.kinds) == {"tool_call", "prose"}
    for context in (ACT, talk):
        best = auto.table(context, Settings(temperature=0.0))[0][0]
        assert policy.steps[context.name] == best.settings
        plan = policy.resolve(context)
        assert (plan.mode, plan.controller, plan.exact) == (best.mode, None, True)
    assert auto.lock("ci").sha256 == policy.sha256


def test_statistics_are_kept_and_a_broken_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "auto.json"
    auto = Auto.kept(GPU, ("ar", "linear_spec"), path)
    play(auto, World(GPU, 0.9), 10)
    auto.save()
    assert Auto.kept(GPU, ("ar", "linear_spec"), path).learned == auto.learned
    whole = path.read_text()
    words = {'"format": 1': '"format": 2', '"kind": "auto"': '"kind": "cost"', '"calls": 10': '"calls": 0x'}
    damages = ["", "{", "[]", "null", whole[:-9], *(whole.replace(old, new) for old, new in words.items())]
    again = Auto(GPU)
    for text in damages:
        assert text != whole
        path.write_text(text)
        with pytest.warns(store.CacheWarning, match="set aside|cannot be used"):
            again = Auto.kept(GPU, ("ar", "linear_spec"), path)
        assert again.learned == Learned()
        assert not path.exists()
        assert path.with_name("auto.json.broken").read_text() == text
    again.save()
    assert path.exists()


@given(st.binary(max_size=200))
@settings(max_examples=50)
def test_no_bytes_are_fatal(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "auto.json"
        path.write_bytes(data)
        with pytest.warns(store.CacheWarning):
            assert store.read(path, "auto", Learned.of) is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(store.CacheWarning, match="cannot write"):
        store.write(tmp_path / "file" / "x.json", "auto", {})


observations = st.builds(
    Observation,
    decisions=st.integers(0, 200),
    forced=st.integers(0, 200),
    prompt=st.integers(1, 1000),
    prefilled=st.integers(0, 1000),
    others=st.integers(0, 9),
    drafts=st.lists(
        st.tuples(st.sampled_from(["linear_spec", "quadratic_spec"]), st.integers(0, 90), st.booleans()), max_size=5
    ).map(tuple),
    fills=st.integers(0, 50),
    denoises=st.integers(0, 20),
    passes=st.integers(0, 200),
    rows=st.integers(0, 900),
    paces=st.lists(
        st.tuples(st.sampled_from(["ar", "linear_spec", "diffusion"]), st.floats(-3, 3), st.floats(0.01, 1)), max_size=3
    ).map(tuple),
)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.7]), observations), max_size=12))
@settings(deadline=None, max_examples=60)
def test_whatever_was_seen_chances_are_chances(calls: list[tuple[str, float, Observation]]) -> None:
    learned = Learned()
    for name, temperature, seen in calls:
        learned.add(replace(ACT, name=name), temperature, seen)
    assert Learned.of(json.loads(json.dumps(learned.as_dict()))) == learned
    sure = learned.workload(ACT, 0.0, 64)
    for load in (sure, sure.sampled({"linear_spec": 3.0, "quadratic_spec": -3.0}), sure.at_best()):
        assert 0 < load.decisions <= 64
        assert load.forced >= 0
        assert load.fill > 0
        assert all(0 <= chance <= 1 for curve in load.acceptance.values() for chance in curve)
    assert all(found.calls <= 1 / (1 - max(FADING)) + 1 for found in learned.evidence.values())


def test_a_steps_own_pace_is_not_blamed_on_the_mode_that_runs_there() -> None:
    """A schema that costs each token half as much again, always decoded in one mode, and free text in another."""
    learned, talk = Learned(), StepContext(kind="prose", name="talk")
    for _ in range(60):
        for context, mode, value in ((ACT, "quadratic_spec", 0.4), (talk, "ar", 0.0), (talk, "quadratic_spec", 0.0)):
            seen = Observation(decisions=9, forced=0, prompt=9, prefilled=9, paces=((mode, value, 1.0),))
            learned.add(context, 0.0, seen)
    modes = [learned.of_mode(mode).mean for mode in ("ar", "quadratic_spec")]
    steps = [learned.of_step(levels(context, 0.0)).mean for context in (talk, ACT)]
    assert abs(modes[1] - modes[0]) < 0.1
    assert steps[1] - steps[0] > 0.3


@pytest.mark.parametrize("chance", [0.3, 0.6, 0.9])
def test_drafts_that_are_given_up_count(chance: float) -> None:
    """Whoever left them out would learn from those alone that did well, and think drafts less work than they are."""
    auto, world = Auto(CPU), World(CPU, chance, noise=0.0)
    drafts = Settings(mode="linear_spec", block_length=8, temperature=0.0)
    controller = Breakeven(variant="linear_spec:8", needed=4.0)
    plan = replace(auto.resolve(ACT), mode="linear_spec", settings=drafts, controller=controller, forecast=None)
    given_up = 0
    for _ in range(60):
        result = world.decode(plan)
        given_up += len(result.stats.mode_runs) > 1
        auto.observe(plan, result)
    assert (given_up > 30) == (chance < 0.9)
    assert abs(auto.learned.of_drafts(levels(ACT, 0.0), "linear_spec")) < 0.15


def test_a_call_that_met_a_stall_says_little_of_its_mode() -> None:
    learned = Learned()
    for value in [0.0] * 20 + [3.0] + [0.0] * 3:
        seen = Observation(decisions=9, forced=0, prompt=9, prefilled=9, paces=(("ar", value, 1.0),))
        learned.add(ACT, 0.0, seen)
        assert learned.of_mode("ar").mean < 0.1


def test_drafts_of_one_mode_say_something_of_the_other() -> None:
    learned = Learned()
    seen = Observation(decisions=9, forced=0, prompt=9, prefilled=9, drafts=(("linear_spec", 7, False),) * 4)
    before = learned.workload(ACT, 0.0, 64).acceptance["quadratic_spec"][0]
    for _ in range(10):
        learned.add(ACT, 0.0, seen)
    load = learned.workload(ACT, 0.0, 64)
    chances = [load.acceptance[mode][0] for mode in ("linear_spec", "quadratic_spec")]
    assert before < 0.6 < 0.9 < chances[1] <= chances[0]
    assert load.trials["quadratic_spec"][0] < load.trials["linear_spec"][0]


def test_ar_is_tried_soon_where_drafts_run_slower_than_the_model_says() -> None:
    """Its own calls may not: whatever drafts gain is measured against it."""
    for seed in range(12):
        auto, world = Auto(GPU, seed=seed), WORLDS["drafting slower than the model says"]()
        modes: list[str] = []
        for _ in range(15):
            plan = auto.resolve(ACT)
            auto.observe(plan, world.decode(plan))
            modes.append(plan.mode)
        assert "ar" in modes


def test_the_latest_steps_are_remembered() -> None:
    learned, seen = Learned(), Observation(decisions=3, forced=0, prompt=3, prefilled=3)
    for number in range(KEYS + 50):
        learned.add(replace(ACT, name=f"step {number}"), 0.0, seen)
    assert len(learned.evidence) == KEYS
    names = {step[1] for key in learned.evidence if (step := step_of(key))}
    assert f"step {KEYS + 49}" in names
    assert "step 0" not in names
    assert all(step_of(key) is None for key in levels(ACT, 0.0)[:2])


def test_rounds_as_drafts() -> None:
    def made(
        origins: str, drafted: int, *reasons: str, mode: str = "linear_spec", fills: tuple[int, ...] = ()
    ) -> Round:
        rejected: Any = tuple(Rejected(token=1, reason=reason) for reason in reasons)  # type: ignore[arg-type]
        return Round(
            mode=mode,  # type: ignore[arg-type]
            tokens=(1,) * len(origins),
            origins=origins,
            drafted=drafted,
            rejected=rejected,
            fills=fills,
        )

    rounds = [
        made("ffc", 0),
        made("faafac", 5, "target", "target"),
        made("aaa", 4, "stop"),
        made("ac", 2, "schema"),
        made("aar", 2, mode="diffusion", fills=(1, 1)),
    ]
    seen = observed(rounds, 8)
    assert seen["drafts"] == (("linear_spec", 3, True), ("linear_spec", 3, False), ("linear_spec", 1, False))
    assert (seen["decisions"], seen["forced"]) == (1 + 4 + 3 + 2 + 3, 4)
    assert (seen["fills"], seen["denoises"]) == (2, 2)
    assert {seen[name] for name in ("lookups", "matches", "copies", "ends")} == {0}
    copying = [
        made("ffc", 0, mode="lookup_spec"),  # nothing was found
        made("aac", 2, mode="lookup_spec"),  # the draft ended before the block did
        made("affac", 2, mode="lookup_spec"),  # with what the grammar forced it filled the block
        made("ac", 4, "target", "target", "target", mode="lookup_spec"),
        made("aa", 2, mode="lookup_spec"),  # the output ended
    ]
    seen = observed(copying, 5)
    assert [seen[name] for name in ("lookups", "matches", "copies", "ends")] == [5, 4, 10, 2]
    assert seen["drafts"] == tuple(("lookup_spec", *each) for each in ((2, True), (2, False), (1, True), (2, False)))


def test_rounds_that_found_nothing_to_copy_cost_a_call_nothing() -> None:
    watch = Breakeven(variant="lookup_spec:8", needed=1.5)
    first = Round(mode="lookup_spec", tokens=(1,), origins="c")
    refused = Round(mode="lookup_spec", tokens=(1,), origins="c", drafted=7)
    assert watch([first] * 50, LookupSpecOptions()) is None
    assert watch([first, *[first, refused] * 6], LookupSpecOptions()) is None
    found = watch([first, *[first, refused] * 7], LookupSpecOptions())
    assert found is not None
    assert found.reason == "lookup_spec:8 is under break-even: 1.0 decisions a round over the last 7, 1.5 needed"


def test_breakeven_waits_for_rounds_and_then_speaks() -> None:
    watch = Breakeven(variant="linear_spec:8", needed=3.0)
    options = LinearSpecOptions(block_length=8)
    poor = Round(mode="linear_spec", tokens=(1,), origins="c", drafted=7)
    good = Round(mode="linear_spec", tokens=(1,) * 5, origins="aaaac", drafted=7)
    first = Round(mode="linear_spec", tokens=(1,), origins="c")
    assert watch([first, poor], options) is None
    assert watch([first, *[good] * 9], options) is None
    assert watch([first, *[poor] * 1], options) is None
    near = Breakeven(variant="quadratic_spec:6", needed=1.05)
    assert near([first, *[poor] * 20], options) is None, "hardly anything is lost"
    found = watch([first, *[poor] * 4], options)
    assert found is not None
    assert found.options == ArOptions()
    assert found.reason == ("linear_spec:8 is under break-even: 1.0 decisions a round over the last 4, 3.0 needed")
    assert watch([first, *[poor] * 4], ArOptions()) is None
    verdicts = [watch([first, *[good] * 9, *[poor] * count], options) is not None for count in range(12)]
    assert all(after or not before for before, after in pairwise(verdicts))
    assert verdicts[-1]
