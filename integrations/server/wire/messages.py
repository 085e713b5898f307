"""The request of `/v1/messages`, as Anthropic documents it, and as an `Ask`.

Knows Anthropic's messages API. Does not know the engine or responses.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from ..asks.ask import Ask, Caller, PolicyAsked, ToolChoice
from ..refusals import BadParameter
from ..settings import ServerSettings
from .base import NAME, Neutral, TrimodeOptions, Wire
from .common import asked_policy, named_tool, sampling, within
from .conversation import closed, joined
from .items import FAILED, THOUGHTS, Conversation

NEUTRAL: Final[Neutral] = {
    "service_tier": ("auto", "standard_only", None),
    "container": (None,),
    "mcp_servers": ([], None),
    "context_management": (None,),
    "inference_geo": (None,),
}
"""Parameters of Anthropic's API that this server does not have."""
_CHOICES: Final[dict[str, ToolChoice]] = {"auto": "auto", "any": "required", "none": "none", "tool": "required"}


class TextBlock(Wire):
    """`cache_control` is accepted: prefixes are cached whether it says so or not."""

    type: Literal["text"]
    text: str
    cache_control: Any = None
    citations: None = None


class ThinkingBlock(Wire):
    type: Literal["thinking", "redacted_thinking"]
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class ToolUseBlock(Wire):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: Any = None
    caller: Any = None


class ToolResultBlock(Wire):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: Any = None


Block = Annotated[TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]


class TurnMessage(Wire):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class ClientTool(Wire):
    type: Literal["custom"] | None = None
    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: Any = None


class ChoiceOfTool(Wire):
    type: Literal["auto", "any", "none", "tool"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Wire):
    """`budget_tokens`: at most so many tokens of thinking, taken from `max_tokens`."""

    type: Literal["enabled", "disabled"]
    budget_tokens: int | None = Field(default=None, ge=1)
    display: Literal["full", "summarized"] | None = None


class OutputFormat(Wire):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Wire):
    format: OutputFormat | None = None


class AboutUser(Wire):
    user_id: Annotated[str, Field(pattern=NAME)] | None = None


class Countable(Wire):
    """What `/v1/messages/count_tokens` takes, and `/v1/messages` as well."""

    model: str
    messages: list[TurnMessage] = Field(min_length=1)
    system: str | list[TextBlock] | None = None
    tools: list[ClientTool] | None = None
    tool_choice: ChoiceOfTool | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(Countable):
    """What `/v1/messages` takes."""

    max_tokens: int = Field(ge=1)
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    stop_sequences: Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool | None = None
    metadata: AboutUser | None = None
    trimode: TrimodeOptions | None = None

    @property
    def stop(self) -> list[str] | None:
        return self.stop_sequences

    @property
    def seed(self) -> int | None:
        """Seeds are no parameter of this API."""
        return None


def countable_ask(request: Countable, caller: Caller, limits: ServerSettings) -> Ask:
    """Returns the conversation as an ask. Raises BadParameter for parameters that do not fit together."""
    within(request.messages, limits.max_messages, "messages")
    tools, choice = request.tools or [], request.tool_choice
    within(tools, limits.max_tools, "tools")
    if choice is not None and choice.type in ("any", "tool") and not tools:
        raise BadParameter("tool_choice asks for a call, and there are no tools", "tool_choice")
    spoken = _conversation(request)
    messages, notes = joined(spoken.messages)
    named = choice.name if choice is not None and choice.type == "tool" else None
    config = request.output_config
    return Ask(
        messages=messages,
        tools=tuple(_tool(tool) for tool in tools),
        choice=_CHOICES[choice.type] if choice else "auto" if tools else "none",
        named=named_tool(named, [tool.name for tool in tools], "tool_choice.name"),
        parallel=choice is None or choice.disable_parallel_tool_use is not True,
        schema=None if config is None or config.format is None else config.format.schema_,
        settings=_thinking(request.thinking),
        caller=caller,
        notes=(*spoken.notes, *notes),
    )


def messages_settings(request: MessagesRequest) -> dict[str, Any]:
    """Returns sampling and limits of a request, as options of a call."""
    return sampling(request, request.max_tokens) | _thinking(request.thinking)


def messages_policy(request: MessagesRequest, headers: TrimodeOptions) -> PolicyAsked:
    """Returns the policy that the request asks for."""
    return asked_policy(request.trimode, headers, None)


def _thinking(given: Thinking | None) -> dict[str, Any]:
    if given is None or given.type == "disabled":
        return {}
    if given.budget_tokens is None:
        raise BadParameter("thinking.budget_tokens is missing", "thinking.budget_tokens")
    return {"max_thinking_tokens": given.budget_tokens}


def _conversation(request: Countable) -> Conversation:
    found = Conversation()
    if request.system is not None:
        found.say("system", request.system if isinstance(request.system, str) else _text(request.system))
    for message in request.messages:
        if isinstance(message.content, str):
            found.say(message.role, message.content)
            continue
        for block in message.content:
            match block:
                case TextBlock():
                    found.say(message.role, block.text)
                case ToolUseBlock():
                    found.call(block.id, block.name, block.input)
                case ToolResultBlock():
                    content = block.content or ""
                    found.answer(block.tool_use_id, content if isinstance(content, str) else _text(content))
                    if block.is_error:
                        found.leave_out(FAILED)
                case ThinkingBlock():
                    found.leave_out(THOUGHTS)
    return found


def _text(blocks: list[TextBlock]) -> str:
    return "\n\n".join(block.text for block in blocks)


def _tool(tool: ClientTool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return closed({"type": "function", "function": {key: one for key, one in function.items() if one is not None}})
