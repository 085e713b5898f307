"""Lock files: they are policies that decide alike, and report what moved; and `auto` together with a policy file."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

import trimode as tm
from trimode.policy.calls.engine import Engine
from trimode.policy.selection import policies as resolving
from trimode.policy.selection.auto import Auto
from trimode.policy.selection.auto_under_table import Guided
from trimode.policy.selection.cost_model import CostModel, Curve
from trimode.policy.selection.lock_file import lock_text, moved
from trimode.policy.selection.policies import PACKAGE_POLICY, Policy, StepContext
from trimode.policy.selection.settings import STEP_KINDS, Settings

SHOP = Policy(
    name="shop",
    kinds={"prose": Settings(mode="diffusion", exact=False, threshold=0.8)},
    steps={"order": Settings(mode="linear_spec", block_length=16)},
)
LEVEL = Curve((1, 64), (0.001, 0.0011))


def test_a_lock_file_is_a_policy_that_decides_alike() -> None:
    locked = Policy.from_table(tomllib.loads(lock_text(SHOP)), "none")
    for kind in STEP_KINDS:
        for name in ("order", "other"):
            context = StepContext(kind=kind, name=name)
            assert locked.resolve(context).settings == SHOP.resolve(context).settings
    assert lock_text(SHOP).startswith(f"# locked: policy 'shop', version 1\n# sha256 {SHOP.sha256}\n")


def test_nothing_moved() -> None:
    assert moved(SHOP, lock_text(SHOP)) == []


def test_what_moved_is_shown() -> None:
    later = replace(SHOP, steps={"order": Settings(mode="linear_spec", block_length=8)})
    lines = moved(later, lock_text(SHOP))
    assert "-block_length = 16" in lines
    assert "+block_length = 8" in lines
    assert f"-# sha256 {SHOP.sha256}" in lines


def test_a_package_that_decides_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = lock_text(SHOP)
    monkeypatch.setattr(
        resolving, "PACKAGE_POLICY", replace(PACKAGE_POLICY, kinds={"plan": Settings(mode="linear_spec")})
    )
    assert '+mode = "linear_spec"' in moved(SHOP, before)


def test_auto_chooses_where_a_table_names_no_mode() -> None:
    table = Policy(name="shop", kinds={"plan": Settings(mode="quadratic_spec")}, steps={"talk": Settings(max_tokens=9)})
    both = Guided(table, Auto(CostModel(LEVEL, LEVEL, 0.0)))
    named = both.resolve(StepContext(kind="plan", name="think"))
    assert (named.mode, named.reason, named.forecast) == (
        "quadratic_spec",
        "quadratic_spec: policy 'shop' for plan steps",
        None,
    )
    chosen = both.resolve(StepContext(kind="prose", name="talk"))
    assert "policy 'auto' expects" in chosen.reason
    assert chosen.settings.max_tokens == 9
    assert (named.policy, chosen.policy) == (both, both)
    assert both.name == "auto under shop"
    assert both.sha256 not in (table.sha256, both.auto.sha256)


def test_a_session_takes_both(reference: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reference.__dict__, "auto", Auto(CostModel(LEVEL, LEVEL, 0.0)))
    monkeypatch.chdir(tmp_path)

    @tm.step("prose", max_tokens=8)
    def talk(thing: str) -> str:
        """Say something about {thing}."""
        ...

    @tm.step("plan", max_tokens=8)
    def think(thing: str) -> str:
        """Think about {thing}."""
        ...

    (tmp_path / "trimode.toml").write_text('name = "shop"\n[kinds.plan]\nmode = "quadratic_spec"\nblock_length = 4\n')
    with tm.session(reference, policy="auto"):
        talked, thought = talk.result("tea"), think.result("tea")
    assert thought.plan.reason == "quadratic_spec: policy 'shop' (trimode.toml) for plan steps"
    assert "policy 'auto' expects" in talked.plan.reason
    assert reference.auto.learned.calls == 2, "it learns from both"
    with tm.session(reference, policy="auto"), tm.using(mode="ar"):
        assert think.result("tea").plan.reason == "ar: using(mode='ar')"
