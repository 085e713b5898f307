"""The request of `/v1/chat/completions`, as OpenAI documents it, and as an `Ask`.

Knows OpenAI's chat API. Does not know the engine or responses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from ..asks.ask import Ask, Caller, ToolChoice
from ..refusals import BadParameter
from ..settings import ServerSettings
from .base import NAME, ChosenTool, Neutral, ResponseFormat, StreamOptions, Tool, TrimodeOptions, Wire
from .common import asked_policy, named_tool, sampling, schema_of_format, thinking_budget, within
from .conversation import closed, joined

NEUTRAL: Final[Neutral] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "repetition_penalty": (1, None),
    "min_p": (0, None),
    "modalities": (["text"], None),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "service_tier": ("auto", "default", None),
    "store": (False, None),
    "verbosity": ("medium", None),
    "functions": (None,),
    "function_call": (None,),
    "prompt_cache_retention": (None,),
}
"""Parameters of OpenAI's and of other servers' chat API that this server does not have."""


_ID: Final = re.compile(r"0|[1-9][0-9]{0,9}")
"""Token ids as text, each in one form alone."""


class TextPart(Wire):
    type: Literal["text", "refusal", "input_text", "output_text", "image_url", "input_audio", "file"]
    text: str | None = None
    refusal: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None


class CalledFunction(Wire):
    """`parsed_arguments`: what OpenAI's client adds when it parses a call, and sends back with the conversation."""

    name: str
    arguments: str | dict[str, Any] | None = None
    parsed_arguments: Any = Field(default=None, exclude=True)


class MessageCall(Wire):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class Message(Wire):
    """One message. `reasoning_content` of earlier answers is accepted and not shown to the model; `parsed` is what
    OpenAI's client makes of `content`."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[MessageCall] | None = None
    tool_call_id: str | None = None
    function_call: CalledFunction | None = None
    reasoning_content: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    parsed: Any = Field(default=None, exclude=True)


class ChatRequest(Wire):
    """What `/v1/chat/completions` takes."""

    model: str
    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    max_completion_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    prompt_cache_key: Annotated[str, Field(pattern=NAME)] | None = None
    user: Annotated[str, Field(pattern=NAME)] | None = None
    safety_identifier: Annotated[str, Field(pattern=NAME)] | None = None
    metadata: dict[str, str] | None = None
    trimode: TrimodeOptions | None = None


def chat_ask(request: ChatRequest, caller: Caller, limits: ServerSettings, headers: TrimodeOptions) -> Ask:
    """Returns the request as an ask. Raises BadParameter for parameters that do not fit together."""
    tools = request.tools or []
    within(request.messages, limits.max_messages, "messages")
    within(tools, limits.max_tools, "tools")
    _check_together(request)
    max_tokens = request.max_completion_tokens or request.max_tokens
    messages, notes = joined([_message(message) for message in request.messages])
    if any(message.reasoning_content for message in request.messages):
        notes = (*notes, "reasoning_content of earlier messages is not shown to the model")
    return Ask(
        messages=messages,
        tools=tuple(closed(tool.model_dump(exclude_none=True)) for tool in tools),
        choice=_choice(request),
        named=named_tool(_named(request), [tool.function.name for tool in tools], "tool_choice.function.name"),
        parallel=request.parallel_tool_calls is not False,
        schema=schema_of_format(request.response_format, "response_format"),
        settings=sampling(request, max_tokens) | thinking_budget(request.reasoning_effort, max_tokens),
        policy=asked_policy(request.trimode, headers, request.metadata),
        caller=caller,
        n=request.n or 1,
        stream=bool(request.stream),
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        logit_bias=bias_of(request.logit_bias),
        notes=notes,
    )


def _check_together(request: ChatRequest) -> None:
    if request.max_tokens is not None and request.max_completion_tokens not in (None, request.max_tokens):
        raise BadParameter("max_tokens and max_completion_tokens differ; leave max_tokens out", "max_tokens")
    if request.top_logprobs and not request.logprobs:
        raise BadParameter("top_logprobs needs logprobs: true", "top_logprobs")
    if request.stream_options is not None and not request.stream:
        raise BadParameter("stream_options belong to stream: true", "stream_options")
    if not request.tools and request.tool_choice not in (None, "none", "auto"):
        raise BadParameter("tool_choice asks for a call, and there are no tools", "tool_choice")
    if request.tools is not None and not request.tools:
        raise BadParameter("tools: expected at least one tool; leave it out where there is none", "tools")


def _message(message: Message) -> Mapping[str, Any]:
    found = message.model_dump(exclude_none=True, exclude={"reasoning_content"})
    for call in found.get("tool_calls", ()):
        call.pop("index", None)
    return found


def _choice(request: ChatRequest) -> ToolChoice:
    given = request.tool_choice
    if given is None:
        return "auto" if request.tools else "none"
    return given if isinstance(given, str) else "required"


def _named(request: ChatRequest) -> str | None:
    return request.tool_choice.function.name if isinstance(request.tool_choice, ChosenTool) else None


def bias_of(given: Mapping[str, float] | None) -> dict[int, float] | None:
    """Returns a logit bias by token id. Raises BadParameter for keys that are no ids, and values beyond 100."""
    if not given:
        return None
    if wrong := [key for key, value in given.items() if not _ID.fullmatch(key) or not -100 <= value <= 100]:
        raise BadParameter(
            f"logit_bias[{wrong[0][:40]!a}]: expected a token id, and a value from -100 to 100", "logit_bias"
        )
    return {int(key): value for key, value in given.items()}
