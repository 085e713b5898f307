"""Runs the function of a tool call, found by name or given, in a span of its own.

Knows functions, their types and the OpenTelemetry API. Does not know models. The tool's span is current while the tool
runs, so that spans which the tool opens become its children. This is safe because no generator is involved: no context
token is kept across a `yield`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial, wraps
from types import TracebackType
from typing import Any, TypeVar, cast, overload

from opentelemetry import context as otel
from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from ..audit import captures, clipped, redacted_text
from ..calls import Scope, current_scope, tools_of
from ..errors import InvalidArguments, ToolError, UnknownTool, error_type, shown
from ..schema import Tool, ToolCall, function_of, is_function, names_of, reasons, runnable
from ..telemetry import ToolSpan, names

R = TypeVar("R")


@overload
def execute_tool(
    tool: Callable[..., Awaitable[R]], call: ToolCall, *, call_id: str | None = None
) -> Coroutine[Any, Any, R]: ...
@overload
def execute_tool(tool: Callable[..., R], call: ToolCall, *, call_id: str | None = None) -> R: ...
def execute_tool(tool: Callable[..., Any], call: ToolCall, *, call_id: str | None = None) -> Any:
    """Returns what `tool(**call.arguments)` returns, with the arguments converted to the types of its annotations.

    A class returns an instance; an async function, a coroutine to await. Raises what the tool raises, and
    InvalidArguments before calling it where the arguments do not fit; the span has the error's type. `call_id`: the id
    that a protocol gave the call.
    """
    if not isinstance(call, ToolCall):
        raise ToolError(f"{shown(call)} is no ToolCall; make one: tm.ToolCall(name=..., arguments={{...}})")
    if not is_function(tool):
        raise ToolError(f"tool={shown(tool)}: expected a function, a method or a class")
    running = _Running(current_scope(), call, call_id)
    asynchronous = inspect.iscoroutinefunction(runnable(tool))
    return running.coroutine(tool) if asynchronous else running.function(tool)


def execute(call: ToolCall, tools: Sequence[Any], *, call_id: str | None = None) -> Any:
    """Runs, by `execute_tool`, the tool that `call` names. `tools`: those that the step was given.

    Raises UnknownTool, and ToolError where the tool is a description without a function. For an async tool: a coroutine
    to await; outside of an event loop, where nobody could, a ToolError. `aexecute` takes tools of both kinds.
    """
    tool = _named(call, tools)
    if inspect.iscoroutinefunction(runnable(tool)) and not _in_event_loop():
        raise ToolError(f"tool {call.name!r} is async and was not called: await tm.aexecute(call, tools)")
    return execute_tool(tool, call, call_id=call_id)


async def aexecute(call: ToolCall, tools: Sequence[Tool], *, call_id: str | None = None) -> Any:
    """`execute` for tasks: awaits a tool that is async, and runs another at once, in the event loop's thread."""
    tool = _named(call, tools)
    running = _Running(current_scope(), call, call_id)
    return await running.coroutine(tool)


def _named(call: ToolCall, tools: Sequence[Tool]) -> Callable[..., Any]:
    if not isinstance(call, ToolCall):
        raise ToolError(f"{shown(call)} is no ToolCall; make one: tm.ToolCall(name=..., arguments={{...}})")
    known = [(name, tool) for tool in tools_of(tools, "execute()") for name in names_of(tool)]
    named = [tool for name, tool in known if name == call.name]
    if not named:
        raise UnknownTool(call.name, [name for name, _ in known])
    if not is_function(named[0]):
        raise ToolError(f"tool {call.name!r} is a description without a function; pass the function itself in tools")
    return cast(Callable[..., Any], named[0])


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _bound(tool: Callable[..., R], call: ToolCall) -> Callable[[], R]:
    """Returns `tool` bound to the call's arguments, converted to its types. It is not run here, so that its own errors
    are not taken for invalid arguments.

    A class is validated as a whole, so its instance is made here.
    """
    tool = runnable(tool)
    try:
        arguments = to_json(call.arguments)
    except PydanticSerializationError as error:
        raise InvalidArguments(call.name, call.arguments, f"they are no JSON: {error}") from None

    @wraps(function_of(tool))
    def bind(*args: Any, **kwargs: Any) -> Callable[[], R]:
        return partial(tool, *args, **kwargs)

    try:
        if inspect.isclass(tool):
            instance: R = TypeAdapter[Any](cast(Any, tool)).validate_json(arguments)
            return lambda: instance
        adapter: TypeAdapter[Callable[[], R]] = TypeAdapter(cast(Any, bind))
        return adapter.validate_json(arguments)
    except ValidationError as error:
        raise InvalidArguments(call.name, call.arguments, reasons(error)) from None
    except (PydanticUserError, NameError) as error:
        raise ToolError(f"tool {call.name!r} was not called: its annotations cannot be used: {error}") from None


class _Running:
    """One execution, as a context manager: its span is current from the beginning to the end."""

    def __init__(self, scope: Scope, call: ToolCall, call_id: str | None) -> None:
        self.scope, self.call, self.call_id = scope, call, call_id
        self.content = captures("span")
        self._cuts: list[str] = []

    def function(self, tool: Callable[..., Any]) -> Any:
        with self:
            return self._returned(_bound(tool, self.call)())

    async def coroutine(self, tool: Callable[..., Any]) -> Any:
        with self:
            made = _bound(tool, self.call)()
            # What a class makes is the result, whatever it can do.
            waits = inspect.isawaitable(made) and not inspect.isclass(runnable(tool))
            return self._returned(await made if waits else made)

    def __enter__(self) -> None:
        self._span = ToolSpan(self.call.name, self.scope.agent, self.scope.parent())
        if self.scope.counts is not None:
            self.scope.counts.tool_began()
        self._span.put({names.GEN_AI_TOOL_CALL_ID: self.call_id, names.SESSION_ID: self.scope.session})
        self._show(names.GEN_AI_TOOL_CALL_ARGUMENTS, self.call.arguments)
        self._token = otel.attach(self._span.context)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        otel.detach(self._token)
        if error is None:
            self._span.end()
            return
        message = clipped(redacted_text(self.scope.redact, str(error)))[0] if self.content else None
        self._span.end(error_type(error), message)

    def _returned(self, result: R) -> R:
        self._show(names.GEN_AI_TOOL_CALL_RESULT, result)
        return result

    def _show(self, key: str, value: Any) -> None:
        if not self.content:
            return
        plain = json.dumps(to_jsonable_python(value, fallback=str), ensure_ascii=False)
        text, cut = clipped(redacted_text(self.scope.redact, plain))
        self._cuts += [f"{key}: {cut}"] if cut else []
        self._span.put({key: text, names.CONTENT_CUT: tuple(self._cuts) or None})
