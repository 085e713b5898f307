"""`@trimode.step`: makes an agent step, whose output a model writes, from a typed function.

Knows functions, annotations and prompts: the docstring (with `{argument}` placeholders) or the returned value is the
prompt, the return annotation the type of the output. Does not know modes: it collects settings and lets `resolve`
choose.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import update_wrapper
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, Unpack, cast, overload

from ..calls import Call, Result, StreamEvent, tools_of
from ..errors import StepError, shown
from ..json_schema import Formats
from ..selection import STEP_KINDS, DecodePlan, SettingArguments, Settings, StepContext, StepKind, resolve
from ..turns import planned_turn
from .definition import Calling, StepSpec, define, listed
from .prompt_text import messages_of
from .sessions import current_session

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")


class Step(Generic[P, R]):
    """A synchronous step: call it for the value, `result` for the whole `Result`, `options` for other settings."""

    function: Callable[P, Any]
    spec: StepSpec

    def __init__(self, function: Callable[P, Any], spec: StepSpec) -> None:
        self.function, self.spec = function, spec
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast(R, value_of(self.result(*args, **kwargs), self.spec))

    def result(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        call = resolved(self.spec, self.function, self.function(*args, **kwargs), args, kwargs)
        return current_session().run(call)

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> Generator[StreamEvent[R]]:
        """Yields the output as it grows; the last event has the `Result`. Leaving the loop early cancels the call."""
        call = resolved(self.spec, self.function, self.function(*args, **kwargs), args, kwargs)
        return current_session().stream(call)

    @overload
    def __get__(self, owner: None, kind: type) -> Step[P, R]: ...
    @overload
    def __get__(self: Step[Concatenate[Any, Q], R], owner: object, kind: type | None = None) -> Step[Q, R]: ...
    def __get__(self, owner: object, kind: type | None = None) -> Any:
        """As a method: the step of that object, which is no part of the prompt."""
        return self if owner is None else Step(_bound(self.function, owner), self.spec)

    def options(self, **settings: Unpack[SettingArguments]) -> Step[P, R]:
        """Returns the step with settings of the call, the strongest layer: `act.options(mode="ar")(goal)`."""
        return Step(self.function, _called(self.spec, settings))

    def __repr__(self) -> str:
        return f"<step {_described(self.function, self.spec)}>"


class AsyncStep(Generic[P, R]):
    """An asynchronous step; cancelling its task cancels the decoding."""

    function: Callable[P, Awaitable[Any]]
    spec: StepSpec

    def __init__(self, function: Callable[P, Awaitable[Any]], spec: StepSpec) -> None:
        self.function, self.spec = function, spec
        update_wrapper(self, function)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast(R, value_of(await self.result(*args, **kwargs), self.spec))

    async def result(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        call = resolved(self.spec, self.function, await self.function(*args, **kwargs), args, kwargs)
        return await current_session().arun(call)

    async def stream(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[StreamEvent[R]]:
        """Yields the output as it grows. Close it (`contextlib.aclosing`) where the loop may be left early."""
        call = resolved(self.spec, self.function, await self.function(*args, **kwargs), args, kwargs)
        async with aclosing(current_session().astream(call)) as events:
            async for event in events:
                yield event

    @overload
    def __get__(self, owner: None, kind: type) -> AsyncStep[P, R]: ...
    @overload
    def __get__(
        self: AsyncStep[Concatenate[Any, Q], R], owner: object, kind: type | None = None
    ) -> AsyncStep[Q, R]: ...
    def __get__(self, owner: object, kind: type | None = None) -> Any:
        """As a method: the step of that object, which is no part of the prompt."""
        return self if owner is None else AsyncStep(_bound(self.function, owner), self.spec)

    def options(self, **settings: Unpack[SettingArguments]) -> AsyncStep[P, R]:
        """Returns the step with settings of the call, the strongest layer."""
        return AsyncStep(self.function, _called(self.spec, settings))

    def __repr__(self) -> str:
        return f"<async step {_described(self.function, self.spec)}>"


def ask(prompt: str | Sequence[Mapping[str, Any]] | None = None) -> R:  # type: ignore[type-var]  # pyright: ignore[reportInvalidTypeVarUse]
    """Returns the prompt of a step whose function computes it: `return ask(text)` or `return ask(messages)`.

    `return ask()` leaves the docstring as the prompt, which a body of `...` does too; mypy takes only the former.

    To type checkers it has any type that the caller expects, because a step's annotation is the type of the output.
    """
    return cast(R, prompt)


def _bound(function: Callable[..., Any], owner: object) -> Any:
    return MethodType(function, owner)


class StepDecorator:
    """The decorator that `step(kind, ...)` returns, typed for sync and async functions."""

    name: str | None
    tools: Sequence[Any]
    schema: Any
    settings: Settings

    def __init__(
        self,
        kind: StepKind | None,
        name: str | None,
        tools: Sequence[Any],
        schema: Any,
        settings: Settings,
        formats: Formats | None = None,
        calling: Calling = (None, None),
    ) -> None:
        self.kind: StepKind | None = kind
        self.formats: Formats | None = formats
        self.calling: Calling = calling
        self.name, self.tools, self.schema, self.settings = name, tools, schema, settings

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]]
    ) -> AsyncStep[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Step[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> Any:
        spec = define(
            function, self.kind, self.name, self.tools, self.schema, self.settings, self.formats, self.calling
        )
        return (AsyncStep if inspect.iscoroutinefunction(function) else Step)(function, spec)


@overload
def step(kind: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncStep[P, R]: ...  # type: ignore[overload-overlap]
@overload
def step(kind: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    kind: StepKind | None = None,
    /,
    *,
    name: str | None = None,
    tools: Sequence[Any] = (),
    schema: Any = None,
    choices: Sequence[str] = (),
    formats: Formats | None = None,
    tool_choice: str | Mapping[str, Any] | None = None,
    parallel_tool_calls: bool | None = None,
    **settings: Unpack[SettingArguments],
) -> StepDecorator: ...
def step(
    kind: Any = None,
    /,
    *,
    name: str | None = None,
    tools: Sequence[Any] = (),
    schema: Any = None,
    choices: Sequence[str] = (),
    formats: Formats | None = None,
    tool_choice: str | Mapping[str, Any] | None = None,
    parallel_tool_calls: bool | None = None,
    **settings: Unpack[SettingArguments],
) -> Any:
    """Makes a step of a function, bare (`@step`) or called (`@step("json", mode="ar", max_tokens=80)`).

    Without a kind: `prose` for functions that return str, `tool_call` for ToolCall, `turn` for Turn, else `json`. A
    turn talks and calls as the model likes, or as `tool_choice` ("auto", "none", "required" or a tool's name) and
    `parallel_tool_calls` say. `schema` (a type or a
    JSON Schema) constrains the output where the annotation is not specific enough. It is compiled here, so that an
    UnsupportedKeyword is raised where the step is defined. A `choice` scores the strings of its annotation (a Literal
    or an Enum), or with `-> str` those of `choices`, in one pass. `formats="assert"` refuses formats
    that nobody here can check (without it they are left out, with a note). Settings are those of `trimode.using`.
    """
    if callable(kind):
        return StepDecorator(None, None, (), None, Settings())(kind)
    if kind is not None and kind not in STEP_KINDS:
        raise StepError(f"unknown step kind {shown(kind)}; known: {', '.join(STEP_KINDS)}")
    if name is not None and (not isinstance(name, str) or not name):
        raise StepError(f"step(name={shown(name)}): expected a name")
    if choices:
        schema = listed(kind, schema, choices)
    given, calling = Settings.of(settings, "step()"), (tool_choice, parallel_tool_calls)
    return StepDecorator(kind, name, tools_of(tools, "step()"), schema, given, formats, calling)


def resolved(
    spec: StepSpec, function: Callable[..., Any], returned: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Call:
    """Returns the call of a step in the current session."""
    session, digest = current_session(), None if spec.schema is None else spec.schema.sha256
    context = StepContext(kind=spec.kind, name=spec.name, schema_sha256=digest, others=session.engine.live)

    def plan_of(part: StepContext) -> DecodePlan:
        return resolve(part, session.policies, spec.layers(), session.engine.weights)

    plan, segments = (plan_of(context), {}) if spec.turn is None else planned_turn(context, spec.turn, plan_of)
    return Call(
        step=spec.name,
        kind=spec.kind,
        plan=plan,
        messages=messages_of(spec.name, function, returned, args, kwargs),
        tools=spec.tools,
        schema=spec.schema,
        turn=spec.turn,
        segments=segments,
    )


def value_of(result: Result, spec: StepSpec) -> Any:
    return result.text if spec.schema is None and spec.turn is None else result.value


def _described(function: Callable[..., Any], spec: StepSpec) -> str:
    """Returns name, signature, kind and settings on one line: `act(goal: str) -> ToolCall: tool_call, mode='ar'`."""
    signature = str(inspect.signature(function)).replace("'", "")
    given = {**spec.decorated.given(), **spec.called.given()}
    tools = [f"tools {', '.join(str(tool['name']) for tool in spec.tools)}"] if spec.tools else []
    return f"{spec.name}{signature}: {', '.join([spec.kind, *tools, *(f'{k}={v!r}' for k, v in given.items())])}"


def _called(spec: StepSpec, settings: Mapping[str, Any]) -> StepSpec:
    return replace(spec, called=Settings.of(settings, "options()").over(spec.called))
