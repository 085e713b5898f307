"""Policies as files: text there and back, the line of whatever is wrong, and exactness that a table has to give up."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimode.policy.errors import PolicyError
from trimode.policy.selection.lock_file import lock_text, moved
from trimode.policy.selection.policies import DecodePlan, Policy, StepContext, resolve
from trimode.policy.selection.settings import MODES, OPTIONS, STEP_KINDS, Settings, StepKind
from trimode.policy.selection.toml_text import as_toml, line_of

SHARED: Final[dict[str, st.SearchStrategy[Any]]] = {
    "temperature": st.floats(0.1, 2),
    "top_k": st.integers(0, 50),
    "top_p": st.floats(0.1, 1),
    "seed": st.integers(0, 2**63 - 1),
    "max_tokens": st.integers(1, 999),
    "max_thinking_tokens": st.integers(0, 99),
    "stop": st.lists(st.text(st.characters(codec="utf-8"), min_size=1), max_size=3).map(tuple),
    "deadline": st.floats(0.001, 100),
    "exact": st.booleans(),
}
MODE_OPTIONS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "block_length": st.integers(2, 256),
    "threshold": st.floats(0.01, 1),
    "rows": st.integers(1, 99),
}


@st.composite
def entries(draw: st.DrawFn) -> Settings:
    """Settings that a table may hold."""
    mode = draw(st.sampled_from([None, *MODES]))
    having = [name for name in MODE_OPTIONS if mode is None or name in OPTIONS[mode].__dataclass_fields__]
    names = draw(st.sets(st.sampled_from([*SHARED, *having])))
    given: dict[str, Any] = {name: draw({**SHARED, **MODE_OPTIONS}[name]) for name in sorted(names)}
    if mode == "diffusion":
        given["exact"] = False
    return Settings(mode=mode, **given)


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
policies = st.builds(
    Policy,
    name=words,
    version=words,
    kinds=st.dictionaries(st.sampled_from(STEP_KINDS), entries(), max_size=3),
    steps=st.dictionaries(words, entries(), max_size=3),
)


@given(policies)
@settings(max_examples=50, deadline=None)
def test_a_policy_is_the_same_after_its_text(policy: Policy) -> None:
    again = Policy.from_table(tomllib.loads(policy.to_toml()), "none")
    assert again == policy
    assert again.sha256 == policy.sha256


@settings(max_examples=50, deadline=None)
@given(policies, st.sampled_from(STEP_KINDS), words)
def test_resolving_is_a_function(policy: Policy, kind: StepKind, name: str) -> None:
    context = StepContext(kind=kind, name=name)
    plan = policy.resolve(context)
    assert plan == Policy.from_table(tomllib.loads(policy.to_toml()), "none").resolve(context)
    assert plan.reason
    assert plan.context == context
    assert not (plan.exact and plan.mode == "diffusion")
    assert plan.settings.exact is not True or plan.exact


tables = st.recursive(
    st.integers() | st.booleans() | words | st.lists(words, max_size=3) | st.floats(allow_nan=False),
    lambda inner: st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(words, tables, max_size=4))
def test_tables_as_text(table: dict[str, Any]) -> None:
    assert tomllib.loads(as_toml(table)) == table


PLACES: Final = """
name = "x"   # line 2

[kinds.plan]
stop = [
  "a",
]
seed = 3
[steps]
act = { mode = "ar", seed = 4 }
"a b".top_k = 5
"""


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("name",), 2),
        (("kinds",), 4),
        (("kinds", "plan"), 4),
        (("kinds", "plan", "stop"), 5),
        (("kinds", "plan", "seed"), 8),
        (("steps", "act", "seed"), 10),
        (("steps", "a b", "top_k"), 11),
        (("steps", "b"), None),
        (("name", "x"), None),
    ],
)
def test_the_line_of_a_key(keys: tuple[str, ...], line: int | None) -> None:
    assert line_of(PLACES, keys) == line


HEAD: Final = 'name = "mine"\n\n[kinds.prose]\nmode = "ar"\n'


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[kinds.plan]\nspeed = 3", 6, r"\[kinds.plan\]: unknown setting 'speed'"),
        ('[kinds.plan]\nseed = 1\nmode = "diffusion"', 7, r"\[kinds.plan\]: mode 'diffusion' .* say exact = false"),
        ('[steps.x]\nexact = true\nmode = "diffusion"', 7, r"\[steps.x\]: mode 'diffusion' is approximate"),
        ('[kinds.plan]\nmode = "linear_spec"\nblock_length = 1', 7, "block_length=1: expected a whole number from 2"),
        ("[kinds.plan]\nblock_length = 999", 6, "block_length=999: expected"),
        ('[kinds.plan]\nmode = "ar"\nblock_length = 8', 7, "block_length is no setting of mode 'ar'"),
        ("[steps.'a b']\nthreshold = 0.0", 6, "threshold=0.0: expected"),
        ("[steps.x]\nrows = 0", 6, "rows=0: expected"),
        ("[steps.x]\ntop_p = 2", 6, "top_p=2: expected"),
        ("[steps.x]\ndeadline = 0", 6, "deadline=0: expected seconds"),
        ('[kinds.dream]\nmode = "ar"', 5, "unknown step kind 'dream'"),
        ("steps = 3", 5, "unknown setting 'steps'"),
        ("[colour]", 5, "unknown key 'colour'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "trimode.toml"
    path.write_text(HEAD + text)
    with pytest.raises(PolicyError, match=message) as caught:
        Policy.from_toml(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_the_line_in_a_project_file(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text('[project]\nname = "x"\n[tool.trimode.kinds.plan]\nmode = "diffusion"\n')
    with pytest.raises(PolicyError, match="approximate") as caught:
        Policy.from_toml(path)
    assert str(caught.value).startswith(f"{path}:4: ")


def test_policies_made_by_hand_are_held_to_the_same() -> None:
    with pytest.raises(PolicyError, match="say exact = false") as caught:
        Policy(kinds={"plan": Settings(mode="diffusion")})
    assert caught.value.where == ("kinds", "plan", "mode")


def test_who_may_allow_diffusion() -> None:
    context = StepContext(kind="prose", name="talk")
    allowed = Policy(kinds={"prose": Settings(mode="diffusion", exact=False)})
    rule = resolve(context, [allowed], ())
    assert (rule.mode, rule.exact) == ("diffusion", False)
    named = resolve(context, (), [("call argument", Settings(mode="diffusion"))])
    assert (named.mode, named.exact) == ("diffusion", False)
    assert resolve(context, (), ()).exact
    assert not resolve(context, (), [("call argument", Settings(exact=False))]).exact
    with pytest.raises(PolicyError, match="exact=True"):
        resolve(context, [allowed], [("call argument", Settings(exact=True))])


def test_an_exact_plan_has_an_exact_mode() -> None:
    plan = resolve(StepContext(kind="prose", name="talk"), (), ())
    with pytest.raises(PolicyError, match="exact plan"):
        DecodePlan(
            mode="diffusion",
            settings=plan.settings,
            reason="",
            policy=plan.policy,
            context=plan.context,
            exact=True,
        )


def test_only_a_line_feed_ends_a_line_of_toml() -> None:
    text = 'name = "a\u2028b\x85c"\n# d\u2029e\n[kinds.plan]\nmode = "ar"\n'
    assert line_of(text, ("kinds", "plan", "mode")) == 4
    policy = Policy(name="a\u2028b", kinds={"plan": Settings(mode="ar")})
    assert moved(policy, lock_text(policy)) == []
    other = moved(replace(policy, name="a\u2028c"), lock_text(policy))
    assert '-name = "a\u2028b"' in other
