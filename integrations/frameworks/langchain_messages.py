"""Messages, tools and results as LangChain has them, and the names and ids of graphs' runs.

Knows langchain-core's messages, chunks, usage and errors. Does not know models, settings or engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from langchain_core import exceptions
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool

from trimode.policy.audit import HostRun
from trimode.policy.calls import Result
from trimode.policy.turns import CallDelta

from .core.causes import Cause
from .core.conventions import closed
from .core.facts import PROVIDER, ending_of, facts_of
from .core.pieces import Piece

_ERRORS: Final[Mapping[Cause, type[Exception]]] = {
    "too_long": exceptions.ContextOverflowError,
    "overloaded": exceptions.ModelRateLimitError,
    "timeout": exceptions.ModelTimeoutError,
    "invalid": exceptions.ModelInvalidRequestError,
    "output": exceptions.OutputParserException,
}
"""LangChain's errors by cause; all others are its `ModelError`."""
_PREBUILT: Final = ("model", "agent", "call_model")
"""Nodes of prebuilt agents, whose names say nothing: the agent's own name, or the node around it, is taken."""


def node_of(metadata: Mapping[str, Any]) -> str:
    """Returns the name of who asks: the agent's, or that of the graph's node; "" outside of a graph."""
    around = [part.split(":")[0] for part in str(metadata.get("langgraph_checkpoint_ns", "")).split("|")]
    names = [metadata.get("lc_agent_name"), metadata.get("langgraph_node"), *reversed(around)]
    return next((str(name) for name in names if name and name not in _PREBUILT), "")


def host_of(run: Any) -> HostRun:
    """Returns the ids of the model's own run, which callbacks and tracers of LangChain know, and of its thread."""
    if run is None:
        return HostRun(framework="langchain")
    metadata: Mapping[str, Any] = run.metadata or {}
    thread = str(metadata.get("thread_id") or metadata.get("session_id") or "")
    agent = str(metadata.get("lc_agent_name") or "")
    return HostRun(framework="langchain", run=str(run.run_id), conversation=thread, agent=agent)


def told_by_name(message: dict[str, Any]) -> dict[str, Any]:
    """Returns a message without a name, which few chat templates show: a user's is written before the text.

    That of an agent or a tool is left out, because the conversation itself tells whose message it is.
    """
    name = message.pop("name", None)
    if name and message["role"] == "user" and isinstance(message["content"], str):
        return {**message, "content": f"{name}: {message['content']}"}
    return message


def document_of(schema: dict[str, Any] | type, strict: bool | None) -> Any:
    """Returns the JSON Schema of a type, of a tool's description, or as it is."""
    document = convert_to_json_schema(schema)
    return closed(document) if strict or not isinstance(schema, Mapping) else document


def tool_of(tool: Any, strict: bool | None) -> dict[str, Any]:
    described = convert_to_openai_tool(tool)
    function = described["function"]
    if strict or not isinstance(tool, Mapping):
        function["parameters"] = closed(function.get("parameters", {"type": "object", "properties": {}}))
    return described


def error_of(cause: Cause, message: str) -> Exception:
    return _ERRORS.get(cause, exceptions.ModelError)(message)


def _told(result: Result, model: str) -> dict[str, Any]:
    """Returns the fields that a message and the last chunk of a stream share."""
    stats, facts = result.stats, facts_of(result)
    usage = UsageMetadata(
        input_tokens=stats.prompt_tokens,
        output_tokens=stats.output_tokens,
        total_tokens=stats.prompt_tokens + stats.output_tokens,
        input_token_details={"cache_read": stats.cached_tokens},
    )
    about = {"model_provider": PROVIDER, "model_name": model, "finish_reason": ending_of(result)}
    return {"usage_metadata": usage, "response_metadata": {**about, **facts}}


def answer_of(result: Result, model: str) -> ChatResult:
    calls = [tool_call(name=call.name, args=call.arguments, id=call.id) for call in result.calls]
    more = {"reasoning_content": result.thinking} if result.thinking else {}
    message = AIMessage(content=result.content or "", tool_calls=calls, additional_kwargs=more, **_told(result, model))
    return ChatResult(generations=[ChatGeneration(message=message)])


def chunk_of(piece: Piece, model: str) -> ChatGenerationChunk:
    last: dict[str, Any] = {} if piece.result is None else {"chunk_position": "last", **_told(piece.result, model)}
    more = {"reasoning_content": piece.thinking} if piece.thinking else {}
    calls = [] if piece.call is None else [_call_chunk(piece.call)]
    message = AIMessageChunk(content=piece.text, tool_call_chunks=calls, additional_kwargs=more, **last)
    return ChatGenerationChunk(message=message)


def _call_chunk(call: CallDelta) -> Any:
    opened = call.name is not None
    return tool_call_chunk(name=call.name, args=call.arguments, id=call.id if opened else None, index=call.index)
