"""dspy's canonical requests as calls of the core.

Knows the messages, tools and configuration of `dspy.lm15`. Does not know engines or responses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from dspy import lm15

from trimode.policy.audit import HostRun
from trimode.policy.json_schema import canonical

from .core.ask import Ask
from .core.completions import call_values, said_values, tool_values
from .core.conventions import closed

_SETTINGS: Final = ("max_tokens", "temperature", "top_p", "top_k", "seed")
_REFUSED: Final = (
    "frequency_penalty", "presence_penalty", "service_tier", "user_id", "store", "logprobs", "probabilities", "cache",
)  # fmt: skip
"""Fields of a configuration that this model has no counterpart of."""


def asked(request: lm15.Request, settings: Mapping[str, Any], node: str) -> Ask:
    """Returns the call. Raises UnsupportedFeatureError for what this model does not have."""
    config, choice = request.config, request.config.tool_choice
    for name in _REFUSED:
        if getattr(config, name, None) is not None:
            raise _unsupported(name, f"{name}={getattr(config, name)!r}")
    own = {name: getattr(config, name) for name in _SETTINGS if getattr(config, name, None) is not None}
    tools = [_tool(tool) for tool in request.tools if not (choice and choice.allowed) or tool.name in choice.allowed]
    stop = {"stop": [*config.stop]} if config.stop else {}
    return Ask.of(
        {**settings, **own, **stop, **_thinking(config.reasoning), **(config.extensions or {})},
        messages=[*_system(request.system), *(one for message in request.messages for one in _messages(message))],
        tools=tools,
        tool_choice=(choice.mode if choice else "auto") if tools else None,
        parallel=choice.parallel if choice and tools else None,
        schema=_schema(config.response_format),
        node=node,
        host=HostRun(framework="dspy", agent=node),
    )


def _schema(format_: Mapping[str, Any] | None) -> Any:
    if format_ is None:
        return None
    return {"type": "object"} if format_["type"] == "json_object" else format_["schema"]


def _thinking(reasoning: lm15.Reasoning | None) -> dict[str, Any]:
    if reasoning is None or reasoning.effort == "off":
        return {}
    if reasoning.thinking_budget is None:
        raise _unsupported("reasoning", f"{reasoning!r} without thinking_budget, in tokens")
    return {"max_thinking_tokens": reasoning.thinking_budget}


def _tool(tool: Any) -> dict[str, Any]:
    if not isinstance(tool, lm15.FunctionTool):
        raise _unsupported("builtin_tool", f"the tool {tool.name!r} of a provider")
    return tool_values(tool.name, tool.description, closed(tool.parameters))


def _system(system: Any) -> Iterator[dict[str, Any]]:
    if system is not None:
        yield {"role": "system", "content": system if isinstance(system, str) else _text(system)}


def _messages(message: lm15.Message) -> Iterator[dict[str, Any]]:
    if message.role == "tool":
        for part in message.parts_of(lm15.ToolResultPart):
            yield {"role": "tool", "tool_call_id": part.id, "content": _text(part.content)}
    elif message.role == "assistant":
        calls = [call_values(one.id, one.name, canonical(one.input)) for one in message.parts_of(lm15.ToolCallPart)]
        shown = [one for one in message.parts if not isinstance(one, lm15.ToolCallPart | lm15.ThinkingPart)]
        yield said_values(_text(shown), calls)
    else:
        yield {"role": message.role, "content": _text(message.parts)}


def _text(parts: Any) -> str:
    for part in parts:
        if not isinstance(part, lm15.TextPart):
            raise _unsupported(f"{part.type}_input", f"a part of type {part.type!r} in a message; the model reads text")
    return "\n".join(part.text for part in parts)


def _unsupported(feature: str, what: str) -> lm15.UnsupportedFeatureError:
    return lm15.UnsupportedFeatureError(f"{what}: a model in this process has no such thing", feature=feature)
