"""ADK's requests as calls of the core.

Knows contents, declarations and configurations of google-genai. Does not know engines or responses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.adk.models.llm_request import LlmRequest
from google.genai import types
from opentelemetry.trace import get_current_span
from pydantic import TypeAdapter

from trimode.policy.audit import HostRun
from trimode.policy.errors import PolicyError
from trimode.policy.json_schema import canonical

from .core.ask import Ask
from .core.completions import call_values, said_values, tool_values
from .core.conventions import closed

_SETTINGS: Final = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_output_tokens": "max_tokens",
    "stop_sequences": "stop", "seed": "seed",
}  # fmt: skip
_READ: Final = frozenset({
    "http_options", "system_instruction", "response_mime_type", "response_schema", "response_json_schema", "tools",
    "tool_config", "labels", "thinking_config", *_SETTINGS,
})  # fmt: skip
"""Fields of a configuration that this model has a counterpart of; of `http_options`: `timeout` and `extra_body`."""
_AGENT: Final = "adk_agent_name"
"""The label that ADK puts an agent's name in."""
_CHOICES: Final = {"ANY": "required", "NONE": "none", "AUTO": "auto", "VALIDATED": "auto"}


def asked(request: LlmRequest, settings: Mapping[str, Any]) -> Ask:
    """Returns the call. Raises PolicyError for what this model does not have."""
    config = request.config
    for name, value in config:
        if name not in _READ and value not in (None, [], {}, 1):
            raise PolicyError(f"{name}={value!r:.100}: a model in this process has no such thing; leave it out")
    http = config.http_options or types.HttpOptions()
    own: dict[str, Any] = {ours: getattr(config, name) for name, ours in _SETTINGS.items()}
    own = {name: value for name, value in own.items() if value is not None}
    own |= {"top_k": int(own["top_k"])} if "top_k" in own else {}  # google-genai has it as a float
    timeout = {} if http.timeout is None else {"timeout": http.timeout / 1000}
    calling = config.tool_config and config.tool_config.function_calling_config
    allowed = (calling and calling.allowed_function_names) or ()
    tools = [tool for tool in _tools(config.tools) if not allowed or tool["function"]["name"] in allowed]
    agent = (config.labels or {}).get(_AGENT, "")
    choice = calling.mode.value if calling and calling.mode else "AUTO"
    return Ask.of(
        {**settings, **own, **timeout, **_thinking(config.thinking_config), **(http.extra_body or {})},
        messages=[*_system(config.system_instruction), *(one for part in request.contents for one in _messages(part))],
        tools=tools,
        tool_choice=_CHOICES.get(choice, "auto") if tools else None,
        schema=_schema(config),
        node=agent,
        host=_host(agent),
    )


def _host(agent: str) -> HostRun:
    """Returns the ids of ADK's invocation and session, which its span around the call has; without spans, neither."""
    known: Mapping[str, Any] = getattr(get_current_span(), "attributes", None) or {}
    run, session = known.get("gcp.vertex.agent.invocation_id", ""), known.get("gen_ai.conversation.id", "")
    return HostRun(framework="google-adk", run=str(run), conversation=str(session), agent=agent)


def _thinking(config: types.ThinkingConfig | None) -> dict[str, Any]:
    budget = config.thinking_budget if config else None
    return {"max_thinking_tokens": budget} if budget and budget > 0 else {}


def _schema(config: types.GenerateContentConfig) -> Any:
    """Returns what the output has to fulfil: the schema, any JSON value, or None."""
    given: Any = config.response_json_schema or config.response_schema
    if given is None:
        return {"type": "object"} if config.response_mime_type == "application/json" else None
    if isinstance(given, types.Schema):
        return _lower(given)
    return given if isinstance(given, Mapping) else closed(TypeAdapter(given).json_schema())


def _tools(tools: Any) -> Iterator[dict[str, Any]]:
    for tool in tools or ():
        others = [name for name, value in tool if value is not None and name != "function_declarations"]
        if others:
            raise PolicyError(
                f"tools: {others[0]} is a tool of a provider, which a model in this process does not have"
            )
        for one in tool.function_declarations or ():
            yield tool_values(one.name, one.description, closed(one.parameters_json_schema or _lower(one.parameters)))


def _lower(schema: types.Schema | None) -> Any:
    """Returns google-genai's schema, whose types are in capitals, as a JSON Schema."""
    return None if schema is None else schema.json_schema.model_dump(mode="json", by_alias=True, exclude_none=True)


def _system(instruction: Any) -> Iterator[dict[str, Any]]:
    if instruction:
        said = instruction if isinstance(instruction, str) else _text(instruction.parts or ())
        yield {"role": "system", "content": said}


def _messages(content: types.Content) -> Iterator[dict[str, Any]]:
    """Yields the messages of a content: the answers of tools one by one, then what was said."""
    parts = [part for part in content.parts or () if not part.thought]
    for part in parts:
        if (answer := part.function_response) is not None:
            yield {"role": "tool", "tool_call_id": answer.id, "content": _answer(answer.response)}
    calls = [
        call_values(call.id or "", call.name or "", canonical(call.args or {}))
        for call in (part.function_call for part in parts) if call is not None
    ]  # fmt: skip
    said = [part for part in parts if part.function_call is None and part.function_response is None]
    if content.role == "model":
        yield said_values(_text(said), calls)
    elif said:
        yield {"role": "user", "content": _text(said)}


def _answer(response: Mapping[str, Any] | None) -> str:
    """Returns a tool's answer as text: without the envelope that ADK puts around values that are no dictionaries."""
    value: Any = response["result"] if response is not None and [*response] == ["result"] else response
    return value if isinstance(value, str) else canonical(value)


def _text(parts: Any) -> str:
    for part in parts:
        if part.text is None:
            kinds = [name for name, value in part if value is not None]
            raise PolicyError(f"a content has a part with {', '.join(kinds)}; the model reads text")
    return "\n".join(part.text for part in parts)
