"""`@trimode.step`: makes an agent step, whose output a model writes, from a typed function.

Knows functions, annotations and prompts: the docstring (with `{argument}` placeholders) or the returned value is the
prompt, the return annotation the type of the output. Does not know modes: it collects settings and lets `resolve`
choose.
"""

from __future__ import annotations

import inspect
import string
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import update_wrapper
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    ParamSpec,
    TypeVar,
    Unpack,
    cast,
    get_origin,
    get_type_hints,
    overload,
)

from ..calls import Call, Result, StreamEvent, candidates_of
from ..errors import StepError
from ..grammar import check, relaxed
from ..schema import Target, TextTarget, ToolCall, described, held_to, schema_of, tool_schema
from ..selection import STEP_KINDS, Layer, SettingArguments, Settings, StepContext, StepKind, resolve
from .sessions import current_session, overrides

NOTHING: Final = Settings()
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """A step as defined: what does not depend on the call's arguments or session."""

    name: str
    kind: StepKind
    tools: tuple[dict[str, Any], ...]
    schema: Target | None
    decorated: Settings
    called: Settings = NOTHING

    def layers(self) -> list[Layer]:
        return [
            (f"decorator of step {self.name!r}", self.decorated),
            *overrides(),
            ("call argument", self.called),
        ]


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


class StepDecorator:
    """The decorator that `step(kind, ...)` returns, typed for sync and async functions."""

    name: str | None
    tools: Sequence[Any]
    schema: Any
    settings: Settings

    def __init__(
        self, kind: StepKind | None, name: str | None, tools: Sequence[Any], schema: Any, settings: Settings
    ) -> None:
        self.kind: StepKind | None = kind
        self.name, self.tools, self.schema, self.settings = name, tools, schema, settings

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]]
    ) -> AsyncStep[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Step[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> Any:
        spec = define(function, self.kind, self.name, self.tools, self.schema, self.settings)
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
    **settings: Unpack[SettingArguments],
) -> Any:
    """Makes a step of a function, bare (`@step`) or called (`@step("json", mode="ar", max_tokens=80)`).

    Without a kind: `prose` for functions that return str, `tool_call` for ToolCall, else `json`. `schema` (a type or a
    JSON Schema) constrains the output where the annotation is not specific enough. It is compiled here, so that an
    UnsupportedKeyword is raised where the step is defined. A `choice` scores the strings of its annotation (a Literal
    or an Enum), or with `-> str` those of `choices`, in one pass. Settings are those of `trimode.using`.
    """
    if callable(kind):
        return StepDecorator(None, None, (), None, Settings())(kind)
    if kind is not None and kind not in STEP_KINDS:
        raise StepError(f"unknown step kind {kind!r}; known: {', '.join(STEP_KINDS)}")
    if choices:
        schema = _listed(kind, schema, choices)
    return StepDecorator(kind, name, tools, schema, Settings.of(settings, "step()"))


def define(
    function: Callable[..., Any],
    kind: StepKind | None,
    name: str | None,
    tools: Sequence[Any],
    target: Any,
    settings: Settings,
) -> StepSpec:
    """Returns the step's kind, schema and settings. The schema is compiled once, so that one that cannot be enforced is
    refused here."""
    returns = _return_type(function)
    text = returns is str or (get_origin(returns) is Annotated and isinstance(schema_of(returns), TextTarget))
    chosen: StepKind = kind or ("prose" if text else "tool_call" if returns is ToolCall else "json")
    schema = _schema(chosen, returns, tools) if target is None else held_to(target)
    if chosen == "choice":
        candidates_of(schema)
    elif schema is not None:
        (relaxed if settings.guarantee == "checked" else check)(schema)
    shown = described(tools)
    return StepSpec(name=name or function.__name__, kind=chosen, tools=shown, schema=schema, decorated=settings)


def resolved(
    spec: StepSpec, function: Callable[..., Any], returned: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Call:
    """Returns the call of a step in the current session."""
    session, digest = current_session(), None if spec.schema is None else spec.schema.sha256
    context = StepContext(kind=spec.kind, name=spec.name, schema_sha256=digest, others=session.engine.live)
    plan = resolve(context, session.policies, spec.layers())
    messages = _messages(spec, function, returned, args, kwargs)
    return Call(step=spec.name, kind=spec.kind, plan=plan, messages=messages, tools=spec.tools, schema=spec.schema)


def value_of(result: Result, spec: StepSpec) -> Any:
    return result.text if spec.schema is None else result.value


def _described(function: Callable[..., Any], spec: StepSpec) -> str:
    """Returns name, signature, kind and settings on one line: `act(goal: str) -> ToolCall: tool_call, mode='ar'`."""
    signature = str(inspect.signature(function)).replace("'", "")
    given = {**spec.decorated.given(), **spec.called.given()}
    tools = [f"tools {', '.join(str(tool['name']) for tool in spec.tools)}"] if spec.tools else []
    return f"{spec.name}{signature}: {', '.join([spec.kind, *tools, *(f'{k}={v!r}' for k, v in given.items())])}"


def _called(spec: StepSpec, settings: Mapping[str, Any]) -> StepSpec:
    return replace(spec, called=Settings.of(settings, "options()").over(spec.called))


def _listed(kind: StepKind | None, schema: Any, choices: Sequence[str]) -> dict[str, Any]:
    if kind != "choice" or schema is not None:
        raise StepError('choices belong to @step("choice", choices=[...]), without a schema beside them')
    return {"enum": list(choices)}


def _return_type(function: Callable[..., Any]) -> Any:
    try:
        return get_type_hints(function, include_extras=True).get("return", str)
    except NameError as error:
        raise StepError(
            f"step {function.__name__!r}: {error}; annotations must be resolvable where the function is defined, "
            "so put the types that it names at module level"
        ) from None


def _schema(kind: StepKind, returns: Any, tools: Sequence[Any]) -> Target | None:
    if kind == "tool_call":
        if not tools:
            raise StepError('a tool_call step needs tools: @step("tool_call", tools=[...])')
        return tool_schema(tools)
    return None if returns is str and kind != "json" else schema_of(returns)


def _messages(
    spec: StepSpec, function: Callable[..., Any], returned: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Mapping[str, Any], ...]:
    """Returns the conversation: what the function returned (text or messages), else its docstring with the arguments
    filled in."""
    if isinstance(returned, str):
        return ({"role": "user", "content": returned},)
    if isinstance(returned, Sequence):
        return tuple(cast(Sequence[Mapping[str, Any]], returned))
    if returned is not None and returned is not ...:
        raise StepError(f"step {spec.name!r} returned {type(returned).__name__}; return text, messages or nothing")
    return ({"role": "user", "content": _filled(spec, function, args, kwargs)},)


def _filled(spec: StepSpec, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    template = inspect.getdoc(function)
    if not template:
        raise StepError(f"step {spec.name!r} has neither a docstring nor a returned prompt")
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    try:
        named = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise StepError(f"step {spec.name!r}: the docstring is no template: {error}; write {{{{ for a brace") from None
    if unknown := sorted(named - set(bound.arguments)):
        raise StepError(f"step {spec.name!r}: the docstring names {{{unknown[0]}}}, which is no argument")
    rest = [f"{name}: {value}" for name, value in bound.arguments.items() if name not in named]
    return "\n".join([template.format(**bound.arguments), *rest])
