"""Runs the function of a tool call, found by name or given, in a span of its own.

Knows functions, their types and the OpenTelemetry API. Does not know models. The tool's span is current while the tool
runs, so that spans which the tool opens become its children. This is safe because no generator is involved: no context
token is kept across a `yield`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial, wraps
from types import TracebackType
from typing import Any, TypeVar, cast, overload

from opentelemetry import context as otel
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json, to_jsonable_python

from ..audit import captures, clipped, redacted_text
from ..calls import Scope, current_scope
from ..errors import InvalidArguments, ToolError, UnknownTool, error_type
from ..schema import ToolCall, function_of, is_function, names_of, reasons, runnable
from ..telemetry import OwnedSpan, names

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
    running = _Running(current_scope(), call, call_id)
    asynchronous = inspect.iscoroutinefunction(runnable(tool))
    return running.coroutine(tool) if asynchronous else running.function(tool)


def execute(call: ToolCall, tools: Sequence[Any], *, call_id: str | None = None) -> Any:
    """Runs, by `execute_tool`, the tool that `call` names. `tools`: those that the step was given.

    Raises UnknownTool, and ToolError where the tool is a description without a function.
    """
    known = [(name, tool) for tool in tools for name in names_of(tool)]
    named = [tool for name, tool in known if name == call.name]
    if not named:
        raise UnknownTool(call.name, [name for name, _ in known])
    if not is_function(named[0]):
        raise ToolError(f"tool {call.name!r} is a description without a function; pass the function itself in tools")
    return execute_tool(named[0], call, call_id=call_id)


def _bound(tool: Callable[..., R], call: ToolCall) -> Callable[[], R]:
    """Returns `tool` bound to the call's arguments, converted to its types. It is not run here, so that its own errors
    are not taken for invalid arguments.

    A class is validated as a whole, so its instance is made here.
    """
    tool = runnable(tool)

    @wraps(function_of(tool))
    def bind(*args: Any, **kwargs: Any) -> Callable[[], R]:
        return partial(tool, *args, **kwargs)

    try:
        if inspect.isclass(tool):
            instance: R = TypeAdapter[Any](cast(Any, tool)).validate_json(to_json(call.arguments))
            return lambda: instance
        adapter: TypeAdapter[Callable[[], R]] = TypeAdapter(cast(Any, bind))
        return adapter.validate_json(to_json(call.arguments))
    except ValidationError as error:
        raise InvalidArguments(call.name, call.arguments, reasons(error)) from None


class _Running:
    """One execution, as a context manager: its span is current from the beginning to the end."""

    def __init__(self, scope: Scope, call: ToolCall, call_id: str | None) -> None:
        self.scope, self.call, self.call_id = scope, call, call_id
        self.content = captures("span")
        self._cuts: list[str] = []

    def function(self, tool: Callable[..., Any]) -> Any:
        with self:
            return self._returned(_bound(tool, self.call)())

    async def coroutine(self, tool: Callable[..., Awaitable[Any]]) -> Any:
        with self:
            return self._returned(await _bound(tool, self.call)())

    def __enter__(self) -> None:
        about = {
            names.GEN_AI_OPERATION_NAME: names.EXECUTE_TOOL,
            names.GEN_AI_TOOL_NAME: self.call.name,
            names.GEN_AI_TOOL_TYPE: "function",
        }
        self._span = OwnedSpan(f"{names.EXECUTE_TOOL} {self.call.name}", about, self.scope.parent())
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
