"""Event streams, circuits and the policy over pools, against plain models of them."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trimode.integrations.remote.transport.circuit import Circuit
from trimode.integrations.remote.transport.events import BadEvent, EventReader
from trimode.policy.errors import PolicyError
from trimode.policy.remote import Dialect, ReportedStats, subschemas, without
from trimode.policy.selection import DecodePlan, Policy, PoolAuto, Settings, StepContext

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12)


@given(st.lists(TEXT.filter(bool), max_size=6), st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_events_do_not_depend_on_how_bytes_arrive(texts: list[str], end: str, data: Any) -> None:
    comment = f": ping{end}event: x{end}"
    whole = "".join(f"{comment}data: {text}{end}{end}" for text in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    reader, found, before = EventReader(), list[str](), 0
    for cut in [*cuts, len(whole)]:
        found += reader.feed(whole[before:cut])
        before = cut
    found += reader.feed(end.encode() + b": end\n")  # a last \r waits for what follows
    assert found == texts


def test_lines_of_one_event_are_joined_and_a_mark_of_order_is_none_of_it() -> None:
    assert list(EventReader().feed("\ufeffdata: a\ndata:b\ndata:  c\n\n".encode())) == ["a\nb\n c"]


@given(st.binary(max_size=60))
def test_any_bytes_are_events_or_refused(data: bytes) -> None:
    reader = EventReader()
    try:
        found = list(reader.feed(data))
    except BadEvent:
        with pytest.raises(UnicodeDecodeError):
            data.decode()
        return
    assert all("\r" not in one for one in found)


class CircuitAsAModel(RuleBasedStateMachine):
    """The circuit against its description: closed until so many failures in a row, then one try after each cooldown."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.running, self.failed, self.openings = 0.0, False, 0, 0
        self.until: float | None = None
        self.circuit = Circuit(3, 2.0, lambda: self.now)

    @precondition(lambda self: not self.running)
    @rule()
    def begin(self) -> None:
        may = self.until is None or self.now >= self.until
        assert self.circuit.begin() == may
        self.running = may

    @precondition(lambda self: self.running)
    @rule(outcome=st.sampled_from(["succeed", "fail", "abandon"]))
    def end(self, outcome: str) -> None:
        getattr(self.circuit, outcome)()
        self.running = False
        if outcome == "succeed":
            self.failed, self.openings, self.until = 0, 0, None
        elif outcome == "fail":
            self.failed += 1
            if self.until is not None or self.failed >= 3:
                self.until = self.now + 2.0 * 2 ** min(self.openings, 6)
                self.openings += 1

    @rule(seconds=st.sampled_from([0.5, 2.0, 50.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def remaining(self) -> None:
        if not self.running:
            expected = 0.0 if self.until is None else max(self.until - self.now, 0.0)
            assert self.circuit.remaining() == pytest.approx(expected)


TestCircuit = CircuitAsAModel.TestCase


def test_one_call_at_a_time_tries_an_open_circuit() -> None:
    now = [0.0]
    circuit = Circuit(1, 1.0, lambda: now[0])
    assert circuit.begin()
    circuit.fail()
    now[0] = 1.5
    assert circuit.begin()
    assert not circuit.begin()
    circuit.succeed()
    assert circuit.begin()


SCHEMAS = st.recursive(
    st.fixed_dictionaries({"type": st.sampled_from(["integer", "string"])}, optional={"minimum": st.integers()}),
    lambda inner: st.fixed_dictionaries(
        {}, optional={"properties": st.dictionaries(TEXT, inner, max_size=3), "items": inner, "anyOf": st.lists(inner)}
    ),
    max_leaves=8,
)


@given(SCHEMAS)
def test_what_a_dialect_ignores_can_be_left_out(document: Any) -> None:
    few = Dialect(name="few", keywords=frozenset({"type", "properties", "items"}))
    ignored = {place for place, _, _ in few.ignored(document)}
    kept = without(document, ignored)
    assert few.ignored(kept) == []
    assert json.loads(json.dumps(kept)) == kept
    counted = sum(len(set(one) - {"type", "properties", "items"}) for _, one in subschemas(document))
    assert (not ignored) == (counted == 0)


def plan_of(mode: Any = "ar", exact: bool = True, name: str = "act") -> DecodePlan:
    context = StepContext(kind="json", name=name)
    return DecodePlan(
        mode=mode, settings=Settings(temperature=0.0), reason="", policy=Policy(), context=context, exact=exact
    )


class Took:
    """What `observe` reads of a result."""

    def __init__(self, seconds: float, tokens: int, drafted: int | None = None, accepted: int | None = None) -> None:
        self.stats = ReportedStats(
            seconds=seconds, prefill_seconds=0.1, output_tokens=tokens, drafted=drafted, accepted=accepted
        )


def taught(auto: PoolAuto, speeds: dict[str, float], calls: int = 60, name: str = "act") -> list[str]:
    """Runs calls whose time is that of their mode; returns the modes that `auto` chose."""
    chosen = list[str]()
    for _ in range(calls):
        plan = auto.choose_mode(plan_of(name=name))
        chosen.append(plan.mode)
        result: Any = Took(0.1 + 20 * speeds[plan.mode], 20, 10, 7)
        auto.observe(plan, result)
    return chosen


def test_auto_tries_each_pool_and_stays_with_the_quickest() -> None:
    auto = PoolAuto(("ar", "lookup_spec", "linear_spec"))
    chosen = taught(auto, {"ar": 0.05, "lookup_spec": 0.02, "linear_spec": 0.04})
    assert set(chosen[:6]) == {"ar", "lookup_spec", "linear_spec"}
    assert chosen.count("lookup_spec") > 50
    plan = auto.choose_mode(plan_of())
    assert "expects" in plan.reason
    assert auto.table(plan.context)["lookup_spec"] < auto.table(plan.context)["ar"]


def test_auto_learns_for_each_step() -> None:
    auto = PoolAuto(("ar", "lookup_spec"))
    assert taught(auto, {"ar": 0.05, "lookup_spec": 0.02}, name="copy")[-1] == "lookup_spec"
    assert taught(auto, {"ar": 0.02, "lookup_spec": 0.05}, name="write")[-1] == "ar"
    assert auto.choose_mode(plan_of(name="copy")).mode == "lookup_spec"


def test_auto_follows_a_pool_whose_speed_changes() -> None:
    auto = PoolAuto(("ar", "lookup_spec"))
    taught(auto, {"ar": 0.05, "lookup_spec": 0.02}, calls=20)
    chosen = taught(auto, {"ar": 0.05, "lookup_spec": 0.5}, calls=40)
    assert chosen[-1] == "ar"


def test_auto_keeps_exact_calls_from_diffusion() -> None:
    auto = PoolAuto(("diffusion", "ar"))
    assert {auto.choose_mode(plan_of()).mode for _ in range(5)} == {"ar"}
    assert auto.choose_mode(plan_of(exact=False)).mode == "diffusion"
    with pytest.raises(PolicyError, match="no pool"):
        PoolAuto(("diffusion",)).choose_mode(plan_of())


def test_what_was_learned_is_kept(tmp_path: Any) -> None:
    path = tmp_path / "pools.json"
    auto = PoolAuto.kept(("ar", "lookup_spec"), path)
    taught(auto, {"ar": 0.05, "lookup_spec": 0.02})
    auto.save()
    again = PoolAuto.kept(("ar", "lookup_spec"), path)
    assert again.evidence == auto.evidence
    assert again.choose_mode(plan_of()).mode == "lookup_spec"
    (found,) = [one for key, one in again.evidence.items() if key.startswith("all|lookup")]
    assert found.acceptance == pytest.approx(0.7)
    assert math.exp(found.log_pace) == pytest.approx(0.02)
