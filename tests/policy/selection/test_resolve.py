"""Who chooses the mode: every layer against every other, the words of the reason, and what a policy file may say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode.engine.errors import RequestError
from trimode.engine.options import ArOptions, DiffusionOptions, LinearSpecOptions
from trimode.engine.request import Sampling
from trimode.policy.errors import PolicyError
from trimode.policy.selection.policies import CHOICE_REASON, PACKAGE_POLICY, DecodePlan, Policy, StepContext, resolve
from trimode.policy.selection.settings import DEFAULTS, MODES, STEP_KINDS, Settings, options_of, sampling_of
from trimode.policy.selection.working_directory import configured

PLAN: Final = StepContext(kind="plan", name="think")
AR, LINEAR, DIFFUSION = (Settings(mode=mode) for mode in ("ar", "linear_spec", "diffusion"))
BY_KIND: Final = Policy(name="file", kinds={"plan": LINEAR})

some_settings = st.builds(
    Settings,
    mode=st.none() | st.sampled_from(MODES),
    block_length=st.none() | st.integers(2, 64),
    threshold=st.none() | st.floats(0.1, 1),
    exact=st.none() | st.booleans(),
    temperature=st.none() | st.floats(0.1, 2),
    seed=st.none() | st.integers(0, 9),
    max_tokens=st.none() | st.integers(1, 9),
    stop=st.none() | st.just(()) | st.just(("x",)),
)


@given(some_settings, some_settings, some_settings)
def test_over_is_associative_with_empty_settings_as_identity(a: Settings, b: Settings, c: Settings) -> None:
    assert a.over(b).over(c) == a.over(b.over(c))
    assert a.over(Settings()) == Settings().over(a) == a
    assert a.over(a) == a


@given(some_settings, some_settings)
def test_over_takes_what_is_given_and_keeps_the_rest(above: Settings, below: Settings) -> None:
    assert above.over(below).given() == below.given() | above.given()


def test_former_names_work_for_one_release() -> None:
    class Former(Policy):
        def advise(self, plan: DecodePlan) -> DecodePlan:
            return replace(plan, mode="linear_spec")

    class Present(Policy):
        def choose_mode(self, plan: DecodePlan) -> DecodePlan:
            return replace(plan, mode="linear_spec")

    for policy in (Former(), Present()):
        assert resolve(StepContext(kind="prose", name="p"), (policy,), ()).mode == "linear_spec"
    assert Present().advise(resolve(PLAN, (), ())).mode == "linear_spec"
    assert Settings(rows=2).said() == {"rows": 2}


LAYERS: Final = [("decorator", "ar"), ("using(inner)", "linear_spec"), ("call argument", "diffusion")]


@pytest.mark.parametrize("count", range(len(LAYERS) + 1))
def test_the_last_layer_that_says_a_mode_chooses_it(count: int) -> None:
    layers = [(label, Settings(mode=mode)) for label, mode in LAYERS[:count]]
    plan = resolve(PLAN, [BY_KIND], layers)
    label, mode = LAYERS[count - 1] if count else ("policy 'file' for plan steps", "linear_spec")
    assert plan.mode == plan.settings.mode == mode
    assert plan.reason == f"{mode}: {label}"


def test_every_knob_has_its_own_author() -> None:
    policy = Policy(kinds={"plan": Settings(threshold=0.5, block_length=8, temperature=0.3)})
    layers = [("decorator", Settings(block_length=16, seed=3)), ("call argument", Settings(seed=4))]
    settings = resolve(PLAN, [policy], layers).settings
    assert (settings.threshold, settings.block_length, settings.temperature, settings.seed) == (0.5, 16, 0.3, 4)
    assert settings.top_p == DEFAULTS.top_p


def test_silent_layers_do_not_take_the_credit() -> None:
    plan = resolve(PLAN, [BY_KIND], [("decorator", Settings(max_tokens=5)), ("call argument", Settings())])
    assert plan.reason == "linear_spec: policy 'file' for plan steps"


@pytest.mark.parametrize("kind", STEP_KINDS)
def test_package_table_serves_every_kind_exactly(kind: Any) -> None:
    plan = resolve(StepContext(kind=kind, name="x"), (), ())
    assert plan.mode in ("ar", "linear_spec")
    by_table = f"{plan.mode}: policy 'trimode' for {kind} steps"
    undecoded = {"choice": CHOICE_REASON, "turn": "turn: each of its segments has a plan of its own"}
    assert plan.reason == undecoded.get(kind, by_table)
    assert plan.policy is PACKAGE_POLICY


def test_step_name_over_kind() -> None:
    policy = Policy(name="p", kinds={"plan": AR}, steps={"think": LINEAR})
    plan = resolve(PLAN, [policy], ())
    assert (plan.mode, plan.reason) == ("linear_spec", "linear_spec: policy 'p' for step 'think'")
    assert resolve(StepContext(kind="plan", name="other"), [policy], ()).mode == "ar"


def test_later_policies_are_stronger() -> None:
    plan = resolve(PLAN, [BY_KIND, Policy(name="last", kinds={"plan": AR})], ())
    assert (plan.mode, plan.policy.name) == ("ar", "last")


def test_exact_refuses_diffusion_and_says_who_asked() -> None:
    for layers in (
        [("decorator of step 'think'", Settings(exact=True)), ("call argument", DIFFUSION)],
        [("call argument", DIFFUSION), ("using()", Settings(exact=True))],
    ):
        with pytest.raises(PolicyError, match=r"exact=True, but call argument asks for diffusion"):
            resolve(PLAN, (), layers)
    assert resolve(PLAN, (), [("a", Settings(exact=True)), ("b", Settings(mode="diffusion", exact=False))])


@pytest.mark.parametrize("words", [{"mode": "turbo"}, {"mode": ""}, {"speed": 3}, {"Mode": "ar"}])
def test_unknown_modes_and_settings_are_refused_by_name(words: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="known:") as caught:
        Settings.of(words, "using()")
    assert str(caught.value).startswith("using(): unknown")
    assert repr(next(iter(words.values()))) in str(caught.value) or next(iter(words)) in str(caught.value)


def test_stop_takes_a_string_or_several() -> None:
    assert Settings.of({"stop": "x"}, "").stop == ("x",)
    assert Settings.of({"stop": ["x", "y"]}, "").stop == ("x", "y")


def test_modes_get_the_knobs_that_they_have() -> None:
    settings = Settings(block_length=8, threshold=0.5, selection="vendor", temperature=0.7, top_k=3, top_p=0.9, seed=1)
    assert options_of("ar", settings) == ArOptions()
    assert options_of("linear_spec", settings) == LinearSpecOptions(block_length=8)
    assert options_of("diffusion", settings) == DiffusionOptions(block_length=8, threshold=0.5, selection="vendor")
    assert sampling_of(settings) == Sampling(temperature=0.7, top_k=3, top_p=0.9, seed=1)
    with pytest.raises(RequestError, match="block_length=1"):
        options_of("diffusion", Settings(block_length=1))


FILE: Final = """
name = "mine"
version = "3"
[kinds.plan]
mode = "linear_spec"
block_length = 8
[steps.think]
mode = "diffusion"
exact = false
stop = ["END"]
"""


def test_policy_file(tmp_path: Path) -> None:
    path = tmp_path / "trimode.toml"
    path.write_text(FILE)
    policy = Policy.from_toml(path)
    assert (policy.name, policy.version) == ("mine", "3")
    assert policy.kinds == {"plan": Settings(mode="linear_spec", block_length=8)}
    assert policy.steps == {"think": Settings(mode="diffusion", exact=False, stop=("END",))}
    assert configured(tmp_path) == policy


def test_policy_of_a_project_file(tmp_path: Path) -> None:
    assert configured(tmp_path) is None
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\n')
    assert configured(tmp_path) is None
    project.write_text('[project]\nname = "x"\n[tool.trimode.kinds.plan]\nmode = "linear_spec"\n')
    found = configured(tmp_path)
    assert found is not None
    assert found.kinds == {"plan": LINEAR}
    (tmp_path / "trimode.toml").write_text(FILE)
    own = configured(tmp_path)
    assert own is not None
    assert own.name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('colour = "red"', "unknown key 'colour'"),
        ("[kinds.plan]\nspeed = 3", r"\[kinds.plan\]: unknown setting 'speed'"),
        ('[kinds.dream]\nmode = "ar"', "unknown step kind 'dream'"),
        ('[kinds.plan]\nmode = "turbo"', r"\[kinds.plan\]: unknown mode 'turbo'"),
        ('[steps.act]\nmode = "turbo"', r"\[steps.act\]: unknown mode 'turbo'"),
        ("[kinds.plan", "trimode.toml"),
        ('kinds = "ar"', "kinds"),
        ('[kinds]\nplan = "ar"', "plan"),
        ("[kinds.plan]\nmode = 3", "unknown mode 3"),
        ("[kinds.plan]\nstop = 3", "stop=3: expected a string"),
        ("[kinds.plan]\nstop = [3]", r"stop=\[3\]: expected a string"),
        ('[kinds.plan]\ntemperature = "hot"', "temperature='hot': expected a number"),
        ("[kinds.plan]\nmax_tokens = 1.5", "max_tokens=1.5: expected a whole number"),
        ('[kinds.plan]\nselection = "best"', "selection='best': expected 'vendor' or 'text_first'"),
        ("[kinds.plan]\nselection = 3", "selection=3: expected a string"),
        ('[kinds.plan]\nmode = "ar"\nselection = "vendor"', "selection is no setting of mode 'ar'; leave one of them"),
        ('[kinds.plan]\nexact = "yes"', "exact='yes': expected true or false"),
    ],
)
def test_policy_file_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trimode.toml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=message) as caught:
        Policy.from_toml(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["[tool", "tool = 3", '[tool]\ntrimode = "ar"'])
def test_broken_project_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(PolicyError, match=r"pyproject\.toml"):
        configured(tmp_path)


def test_policy_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot read policy"):
        Policy.from_toml(tmp_path / "none.toml")
    (tmp_path / "trimode.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PolicyError, match=r"trimode\.toml"):
        Policy.from_toml(tmp_path / "trimode.toml")


def test_digest_changes_with_the_content_alone() -> None:
    one = Policy(name="a", kinds={"plan": AR, "json": LINEAR})
    assert one.sha256 == Policy(name="b", version="9", kinds={"json": LINEAR, "plan": AR}).sha256
    others = [Policy(kinds={"plan": AR}), Policy(steps={"plan": AR, "json": LINEAR}), Policy(),
              Policy(kinds={"plan": AR, "json": Settings(mode="linear_spec", seed=1)})]  # fmt: skip
    assert len({one.sha256, *(other.sha256 for other in others)}) == 1 + len(others)
