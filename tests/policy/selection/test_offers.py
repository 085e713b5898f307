"""What the package's table offers: by the modes that weights have, and where speculation can pay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trimode.engine.errors import RequestError
from trimode.engine.models.families import FAMILIES, check_mode
from trimode.engine.result import Mode
from trimode.policy.errors import PolicyError
from trimode.policy.selection.cost_model import CostModel, Curve
from trimode.policy.selection.offers import Weights, copying_pays, pays
from trimode.policy.selection.policies import Policy, StepContext, resolve
from trimode.policy.selection.settings import STEP_KINDS, Settings, StepKind
from trimode.policy.selection.variants import Variant

ACT = StepContext(kind="tool_call", name="act")
LLAMA = Weights(name="LlamaForCausalLM", modes=FAMILIES["LlamaForCausalLM"].modes)
SDAR = Weights(name="SDARForCausalLM", modes=FAMILIES["SDARForCausalLM"].modes)
LEVEL, STEEP = Curve((1.0, 64.0), (0.01, 0.01)), Curve((1.0, 64.0), (0.0003, 0.0077))
GPU, CPU = CostModel(LEVEL, LEVEL, 0.0), CostModel(STEEP, STEEP, 0.0)


@pytest.mark.parametrize("kind", STEP_KINDS)
@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if "ar" in family.modes])
def test_every_kind_gets_a_mode_that_the_weights_have(kind: StepKind, name: str) -> None:
    weights = Weights(name=name, modes=FAMILIES[name].modes)
    plan = resolve(replace(ACT, kind=kind), (), (), weights)
    assert plan.mode in weights.modes
    assert plan.settings.mode == plan.mode
    assert plan.exact
    check_mode(name, plan.mode)


def test_what_nobody_asked_for_is_not_offered() -> None:
    """A bundled adapter changes no default: its modes are there for those who name them, and for `auto`."""
    drafting: tuple[Mode, ...] = ("linear_spec", "quadratic_spec")
    weights = replace(LLAMA, modes=(*LLAMA.modes, *drafting), unasked=drafting)
    plan = resolve(ACT, (), (), weights)
    assert plan.mode == "ar"
    assert "by the bundled draft adapter is not offered unasked" in plan.reason
    for mode in drafting:
        assert resolve(ACT, (), [("call", Settings(mode=mode))], weights).mode == mode
    assert resolve(ACT, (), (), replace(weights, unasked=())).mode == "linear_spec"


@pytest.mark.parametrize("kind", ["plan", "tool_call", "json", "prose"])
def test_a_server_with_one_pool_is_offered_the_mode_of_that_pool(kind: StepKind) -> None:
    each: tuple[Mode, ...] = ("lookup_spec", "linear_spec", "ar")
    for only in each:
        weights = Weights(name="vllm server's", modes=(only,))
        plan = resolve(replace(ACT, kind=kind), (), (), weights)
        assert plan.mode == only
        assert plan.mode in plan.reason
        assert resolve(ACT, (), [("call", Settings(mode="ar"))], weights).mode == "ar"


def test_the_reason_says_what_the_weights_lack() -> None:
    plan = resolve(ACT, (), (), LLAMA)
    assert plan.reason == "ar: policy 'trimode' for tool_call steps; LlamaForCausalLM weights have no linear_spec"
    silent = Policy(name="silent", kinds={"tool_call": Settings(max_tokens=9)})
    assert resolve(ACT, (silent,), (), LLAMA).mode == "ar"


def test_what_somebody_named_stays() -> None:
    named = Policy(name="mine", kinds={"tool_call": Settings(mode="linear_spec")})
    for plan in (
        resolve(ACT, (named,), (), LLAMA),
        resolve(ACT, (), [("call argument", Settings(mode="linear_spec"))], LLAMA),
    ):
        assert plan.mode == "linear_spec"
        with pytest.raises(RequestError, match="linear_spec"):
            check_mode(LLAMA.name, plan.mode)
    slow = replace(LLAMA, modes=("ar", "linear_spec"), cost=CPU)
    assert resolve(ACT, (named,), (), slow).mode == "linear_spec"


def test_weights_without_an_exact_mode_are_not_decoded_approximately_unless_allowed() -> None:
    refused = resolve(ACT, (), (), SDAR)
    assert (refused.mode, refused.exact) == ("linear_spec", True)
    with pytest.raises(RequestError):
        check_mode(SDAR.name, refused.mode)
    allowed = resolve(ACT, (), [("call argument", Settings(exact=False))], SDAR)
    assert (allowed.mode, allowed.exact) == ("diffusion", False)
    assert allowed.reason.endswith("SDARForCausalLM weights have no linear_spec")
    with pytest.raises(PolicyError, match="approximate"):
        resolve(ACT, (), [("call argument", Settings(exact=True, mode="diffusion"))], SDAR)


def test_speculation_is_offered_where_it_can_pay() -> None:
    weights = Weights(name="any", modes=("ar", "linear_spec", "quadratic_spec"))
    assert resolve(ACT, (), (), weights).mode == "linear_spec"  # nobody measured a pass
    assert resolve(ACT, (), (), replace(weights, cost=GPU)).mode == "linear_spec"
    plan = resolve(ACT, (), (), replace(weights, cost=CPU))
    assert plan.mode == "ar"
    assert plan.reason == (
        "ar: policy 'trimode' for tool_call steps; "
        "linear_spec cannot pay on this machine, not even with 90% of its drafts accepted"
    )
    short = resolve(ACT, (), [("using", Settings(block_length=4))], replace(weights, cost=CPU))
    assert "linear_spec:4 cannot pay" in short.reason
    assert resolve(replace(ACT, kind="prose"), (), (), replace(weights, cost=CPU)).reason.endswith("prose steps")


def test_weights_that_cannot_draft_are_offered_copies_where_these_pay() -> None:
    """Nothing is offered at a cost that nobody measured, and nothing but what the table would draft."""
    assert resolve(ACT, (), (), LLAMA).mode == "ar"
    assert resolve(ACT, (), (), replace(LLAMA, cost=CPU)).mode == "ar"
    offered = {kind: resolve(replace(ACT, kind=kind), (), (), replace(LLAMA, cost=GPU)).mode for kind in STEP_KINDS}
    assert {kind for kind, mode in offered.items() if mode == "lookup_spec"} == {"tool_call", "json"}
    plan = resolve(ACT, (), (), replace(LLAMA, cost=GPU))
    assert plan.reason == (
        "lookup_spec: policy 'trimode' for tool_call steps; LlamaForCausalLM weights have no linear_spec, and "
        "lookup_spec is expected to pay on this machine"
    )
    every = Weights(name="any", modes=("ar", "linear_spec", "lookup_spec"))
    assert resolve(ACT, (), (), replace(every, cost=CPU)).mode == "ar", "they can draft, only not here"


@pytest.mark.parametrize(("draft", "offered"), [(1.2, True), (2.0, True), (2.5, False)])
def test_copies_pay_by_the_pass_that_holds_a_draft(draft: float, offered: bool) -> None:
    """Of about seven rows: a pass may take twice the time of one of `ar`."""
    curve = Curve((1.5, 7.05, 64.0), (0.01, 0.01 * draft, 0.1 * draft))
    assert copying_pays(CostModel(curve, curve, 0.0), Variant("lookup_spec")) == offered


def test_pays_is_by_the_round() -> None:
    assert pays(GPU, Variant("linear_spec", 4))
    assert not pays(CPU, Variant("linear_spec", 32))
    assert pays(GPU, Variant("quadratic_spec", 4, 1))
