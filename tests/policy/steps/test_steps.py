"""Step functions: what becomes the prompt, what becomes the type, and what cannot be a step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from loaded import SHORT
from pydantic import BaseModel
from typing_extensions import TypedDict

import trimode as tm
from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine
from trimode.policy.steps.sessions import Session

Unit = Literal["cm", "m"]


class Model(BaseModel):
    unit: Unit


@dataclass
class Data:
    unit: Unit


class Typed(TypedDict):
    unit: Unit


def measure(unit: Unit) -> None:
    """Measures a thing."""


@tm.step
def bare(what: str) -> str:
    """Describe {what}."""
    ...


@tm.step("json", max_tokens=24)
def typed(what: str, where: str = "here") -> Model:
    """In what unit is {what}?"""
    ...


@tm.step("tool_call", tools=[measure], max_tokens=40)
async def act(goal: str) -> tm.ToolCall:
    """{goal}"""
    ...


@tm.step(max_tokens=2)
async def answer(text: str) -> str:
    return tm.ask(text + "!")


@pytest.fixture
def run(reference: Engine) -> Iterator[Session]:
    with tm.session(reference, policy=tm.Policy()) as session:
        yield session


@pytest.fixture
def calls(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Calls as they reach the engine."""
    seen: list[Call] = []
    whole = reference.run

    def spy(call: Call, *more: Any) -> tm.Result:
        seen.append(call)
        return whole(call, *more)

    monkeypatch.setattr(reference, "run", spy)
    return seen


def user(content: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": content},)


@pytest.mark.usefixtures("run")
def test_docstring_is_the_prompt_and_other_arguments_follow(calls: list[Call]) -> None:
    typed("the table")
    typed("a {brace}", where="there")
    assert [call.messages for call in calls] == [
        user("In what unit is the table?\nwhere: here"),
        user("In what unit is a {brace}?\nwhere: there"),
    ]


@pytest.mark.usefixtures("run")
def test_returned_text_or_messages_are_the_prompt(calls: list[Call]) -> None:
    @tm.step(max_tokens=2)
    def text(what: str) -> str:
        """Not the prompt."""
        return f"Say {what}."

    @tm.step("plan", max_tokens=2)
    def messages(history: Sequence[Mapping[str, Any]]) -> str:
        return tm.ask(history)

    history = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    text("hi")
    messages(history)
    assert calls[0].messages == user("Say hi.")
    assert calls[1].messages == tuple(history)


def test_kind_follows_the_annotation(run: Session) -> None:
    bare.options(max_tokens=2)("a table")
    typed("the table")
    asyncio.run(act("Measure it."))
    assert [kind for kind, _ in run.results] == ["prose", "json", "tool_call"]
    assert [result.plan.mode for _, result in run.results] == ["ar", "linear_spec", "linear_spec"]


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("annotation", "is_right"),
    [
        (Model, lambda value: value == Model(unit=value.unit)),
        (Data, lambda value: value == Data(unit=value.unit)),
        (Typed, lambda value: set(value) == {"unit"}),
        (Unit, lambda value: value in ("cm", "m")),
        (bool, lambda value: isinstance(value, bool)),
        (tuple[Unit, bool], lambda value: isinstance(value, tuple) and value[0] in ("cm", "m")),
    ],
)
def test_value_has_the_annotated_type(annotation: Any, is_right: Callable[[Any], bool]) -> None:
    def ask() -> Any:
        """How long?"""

    ask.__annotations__["return"] = annotation
    assert is_right(tm.step("json", max_tokens=24)(ask)())


@pytest.mark.usefixtures("run")
def test_list_of_numbers() -> None:
    @tm.step("json", max_tokens=60)
    def numbers() -> list[int]:
        """Count."""
        ...

    result = numbers.result()
    assert result.valid in (True, None)
    if result.valid:
        assert numbers() == result.value


@pytest.mark.usefixtures("run")
def test_schema_in_the_decorator_holds_the_output() -> None:
    @tm.step("json", schema=SHORT, max_tokens=24)
    def report() -> dict[str, Any]:
        """How long?"""
        ...

    assert set(report()) == {"low", "unit"}


@pytest.mark.usefixtures("run")
def test_async_steps() -> None:
    async def both() -> tuple[tm.ToolCall, str]:
        call, text = await asyncio.gather(act("Measure it."), answer("Hello"))
        return call, text

    call, text = asyncio.run(both())
    assert call.name == "measure"
    assert isinstance(text, str)


@pytest.mark.usefixtures("run")
def test_result_is_the_whole_story_and_options_are_the_strongest_word() -> None:
    with tm.using(mode="linear_spec"):
        result = typed.options(mode="ar").options(seed=3).result("the table")
    assert isinstance(result, tm.Result)
    assert isinstance(result.value, Model)
    assert (result.plan.reason, result.plan.settings.seed) == ("ar: call argument", 3)
    assert typed.result("the table").plan.mode == "linear_spec", "options leave the step as it was"


@pytest.mark.usefixtures("run")
def test_a_budget_too_small_says_what_to_raise() -> None:
    with pytest.raises(tm.BudgetTooSmall, match=r"takes 7 tokens and 2 are allowed .* raise max_tokens") as caught:
        typed.options(max_tokens=2)("the table")
    assert (caught.value.need, caught.value.got) == (7, 2)
    assert bare.options(max_tokens=2)("text is whole at any length") is not None


def test_steps_keep_name_and_doc() -> None:
    assert (typed.__name__, act.__name__) == ("typed", "act")  # type: ignore[attr-defined]
    assert typed.__doc__ == "In what unit is {what}?"
    assert typed.spec.name == "typed"
    assert tm.step("plan", name="other")(lambda: "x").spec.name == "other"


def test_outside_a_session() -> None:
    with pytest.raises(tm.StepError, match=r"inside `with trimode\.session"):
        bare("a table")
    with pytest.raises(tm.StepError, match="outside a session"):
        asyncio.run(act("x"))


def _nothing() -> str: ...


def _unnamed() -> str:
    """{0}"""
    ...


def _empty() -> str:
    """{}"""
    ...


def _missing(what: str) -> str:
    """{waht}"""
    ...


def _broken(what: str) -> str:
    """{what"""
    ...


def _number() -> str:
    return 3  # type: ignore[return-value]


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        (_nothing, (), "neither a docstring nor a returned prompt"),
        (_missing, ("x",), r"names \{waht\}, which is no argument"),
        (_unnamed, (), r"names \{0\}, which is no argument"),
        (_empty, (), r"names \{\}, which is no argument"),
        (_broken, ("x",), "the docstring is no template"),
        (_number, (), "returned int; return text, messages or nothing"),
    ],
)
def test_prompts_that_cannot_be_made(function: Callable[..., str], args: Sequence[str], message: str) -> None:
    with pytest.raises(tm.StepError, match=message):
        tm.step(function)(*args)


def test_definitions_that_are_refused() -> None:
    with pytest.raises(tm.StepError, match="unknown step kind 'dream'"):
        tm.step("dream")  # type: ignore[call-overload]
    with pytest.raises(tm.PolicyError, match="unknown mode 'turbo'"):
        tm.step("json", mode="turbo")  # type: ignore[call-overload]
    with pytest.raises(tm.PolicyError, match="unknown setting 'speed'"):
        tm.step("json", speed=3)  # type: ignore[call-overload]
    with pytest.raises(tm.PolicyError, match="unknown setting"):
        typed.options(speed=3)  # type: ignore[call-arg]
    with pytest.raises(tm.StepError, match="a tool_call step needs tools"):
        tm.step("tool_call")(measure)
    with pytest.raises(tm.UnsupportedKeyword) as caught:
        tm.step("json", schema={"properties": {"a": {"not": {"pattern": "x"}}}})(_nothing)
    assert (caught.value.pointer, caught.value.keyword) == ("/properties/a/not", "not")


def test_annotation_that_cannot_be_resolved() -> None:
    def lost() -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
        """x"""

    with pytest.raises(tm.StepError, match="put the types that it names at module level"):
        tm.step("json")(lost)


@pytest.mark.usefixtures("run")
def test_wrong_arguments_are_the_callers_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        typed(what="x", wher="y")  # type: ignore[call-arg]
