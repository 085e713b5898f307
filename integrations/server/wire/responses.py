"""The request of `/v1/responses`, as OpenAI documents it, and as an `Ask`. Stateless: nothing is stored.

Knows OpenAI's responses API. Does not know the engine or responses.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from ..asks.ask import Ask, Caller, ToolChoice
from ..refusals import BadParameter
from ..settings import ServerSettings
from .base import NAME, Neutral, TrimodeOptions, Wire
from .common import asked_policy, named_tool, sampling, thinking_budget, within
from .conversation import closed, joined
from .items import THOUGHTS, Conversation, text_parts

NEUTRAL: Final[Neutral] = {
    "store": (False, None),
    "background": (False, None),
    "previous_response_id": (None,),
    "conversation": (None,),
    "prompt": (None,),
    "include": ([], None),
    "truncation": ("disabled", None),
    "max_tool_calls": (None,),
    "service_tier": ("auto", "default", None),
    "prompt_cache_retention": (None,),
    "context_management": (None,),
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
}
"""Parameters of OpenAI's responses API that this server does not have; what is stored is refused so."""


class Part(Wire):
    """A part of content. Parts other than text are refused by their type."""

    type: Literal["input_text", "output_text", "text", "refusal", "input_image", "input_file", "input_audio"]
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = Field(default=None, exclude=True)
    logprobs: list[Any] | None = Field(default=None, exclude=True)
    image_url: Any = None
    file_id: Any = None
    detail: Any = None


class MessageItem(Wire):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class CallItem(Wire):
    """A call as a response has it. What OpenAI's client adds to it when it writes one out asks for nothing."""

    model_config: ClassVar[ConfigDict] = ConfigDict(populate_by_name=True)

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None
    async_: Literal[False] | None = Field(default=None, alias="async")
    caller: None = None
    namespace: None = None


class OutputItem(Wire):
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[Part]
    id: str | None = None
    status: str | None = None


class ReasoningItem(Wire):
    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Any] | None = None
    content: list[Any] | None = None
    encrypted_content: str | None = None
    status: str | None = None


def _kind(item: Any) -> str:
    given = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", "message")
    return given if isinstance(given, str) else ""


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[OutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_kind),
]


class FlatTool(Wire):
    type: Literal["function"]
    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FlatChoice(Wire):
    type: Literal["function"]
    name: str = Field(min_length=1, max_length=256)


class FlatFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextOptions(Wire):
    format: FlatFormat | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(Wire):
    """`summary` is not written: thinking is given as it is."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: None = None
    generate_summary: None = None


class ObfuscationOptions(Wire):
    include_obfuscation: bool | None = None


class ResponsesRequest(Wire):
    """What `/v1/responses` takes."""

    model: str
    input: str | Annotated[list[Item], Field(min_length=1)]
    instructions: str | None = None
    tools: list[FlatTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | FlatChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_logprobs: Literal[0] | None = None
    stream: bool | None = None
    stream_options: ObfuscationOptions | None = None
    metadata: dict[str, str] | None = None
    user: Annotated[str, Field(pattern=NAME)] | None = None
    safety_identifier: Annotated[str, Field(pattern=NAME)] | None = None
    prompt_cache_key: Annotated[str, Field(pattern=NAME)] | None = None
    trimode: TrimodeOptions | None = None

    @property
    def seed(self) -> int | None:
        """Seeds, top_k and stop strings are no parameters of this API."""
        return None

    @property
    def top_k(self) -> int | None:
        return None

    @property
    def stop(self) -> list[str] | None:
        return None

    @property
    def choice(self) -> ToolChoice:
        """Whether tools are called."""
        if self.tool_choice is None:
            return "auto" if self.tools else "none"
        return self.tool_choice if isinstance(self.tool_choice, str) else "required"


def responses_ask(request: ResponsesRequest, caller: Caller, limits: ServerSettings, headers: TrimodeOptions) -> Ask:
    """Returns the request as an ask. Raises BadParameter for parameters that do not fit together."""
    tools = request.tools or []
    within(tools, limits.max_tools, "tools")
    within([] if isinstance(request.input, str) else request.input, limits.max_messages, "input")
    if not tools and request.choice == "required":
        raise BadParameter("tool_choice asks for a call, and there are no tools", "tool_choice")
    spoken = _conversation(request)
    messages, notes = joined(spoken.messages)
    effort = None if request.reasoning is None else request.reasoning.effort
    named = request.tool_choice.name if isinstance(request.tool_choice, FlatChoice) else None
    return Ask(
        messages=messages,
        tools=tuple(_tool(tool) for tool in tools),
        choice=request.choice,
        named=named_tool(named, [tool.name for tool in tools], "tool_choice.name"),
        parallel=request.parallel_tool_calls is not False,
        schema=_schema(request.text),
        settings=sampling(request, request.max_output_tokens) | thinking_budget(effort, request.max_output_tokens),
        policy=asked_policy(request.trimode, headers, request.metadata),
        caller=caller,
        stream=bool(request.stream),
        notes=(*spoken.notes, *notes),
    )


def _conversation(request: ResponsesRequest) -> Conversation:
    found = Conversation()
    if request.instructions is not None:
        found.say("system", request.instructions)
    if isinstance(request.input, str):
        found.say("user", request.input)
        return found
    for item in request.input:
        match item:
            case MessageItem():
                found.say(item.role, item.content if isinstance(item.content, str) else text_parts(item.content))
            case CallItem():
                found.call(item.call_id, item.name, item.arguments)
            case OutputItem():
                found.answer(item.call_id, item.output if isinstance(item.output, str) else text_parts(item.output))
            case ReasoningItem():
                found.leave_out(THOUGHTS)
    return found


def _tool(tool: FlatTool) -> dict[str, Any]:
    return closed({"type": "function", "function": tool.model_dump(exclude_none=True, exclude={"type"})})


def _schema(text: TextOptions | None) -> Any:
    given = None if text is None else text.format
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return {"type": "object"}
    if given.schema_ is None:
        raise BadParameter("text.format: schema is missing", "text.format.schema")
    return given.schema_
