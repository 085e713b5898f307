"""The request of `/v1/completions`, as OpenAI documents it, and as asks: one a prompt.

Knows OpenAI's completions API. Does not know the engine or responses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final

from pydantic import Field

from ..asks.ask import Ask, Caller
from ..refusals import BadParameter
from .base import NAME, Neutral, ResponseFormat, StreamOptions, TrimodeOptions, Wire
from .chat import bias_of
from .common import asked_policy, sampling, schema_of_format

NEUTRAL: Final[Neutral] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "repetition_penalty": (1, None),
    "min_p": (0, None),
    "best_of": (1, None),
    "echo": (False, None),
}
_TOKENS: Final = 16
"""Output tokens where the request says no number, as in OpenAI's API."""


class CompletionRequest(Wire):
    """What `/v1/completions` takes. With `suffix` the output is what stands between `prompt` and `suffix`."""

    model: str
    prompt: str | list[str] | list[int] | list[list[int]]
    suffix: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    n: int | None = Field(default=None, ge=1)
    logprobs: int | None = Field(default=None, ge=0, le=20)
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    user: Annotated[str, Field(pattern=NAME)] | None = None
    metadata: dict[str, str] | None = None
    trimode: TrimodeOptions | None = None


def completion_asks(request: CompletionRequest, caller: Caller, headers: TrimodeOptions) -> list[Ask]:
    """Returns one ask for each prompt. Raises BadParameter for parameters that do not fit together."""
    if request.stream_options is not None and not request.stream:
        raise BadParameter("stream_options belong to stream: true", "stream_options")
    prompts = _prompts(request.prompt)
    if request.suffix is not None and any("prompt" not in prompt for prompt in prompts):
        raise BadParameter("suffix belongs to a prompt of text", "suffix")
    ask = Ask(
        suffix=request.suffix or None,
        choice="none",
        schema=schema_of_format(request.response_format, "response_format"),
        settings=sampling(request, request.max_tokens or _TOKENS),
        policy=asked_policy(request.trimode, headers, request.metadata),
        caller=caller,
        n=request.n or 1,
        stream=bool(request.stream),
        top_logprobs=request.logprobs,
        logit_bias=bias_of(request.logit_bias),
    )
    return [replace(ask, **prompt) for prompt in prompts]


def _prompts(given: str | list[str] | list[int] | list[list[int]]) -> list[dict[str, Any]]:
    """Returns each prompt as fields of an ask."""
    if isinstance(given, str):
        return [{"prompt": given}]
    if not given or any(one == [] for one in given):
        raise BadParameter("prompt is empty: expected a text or token ids", "prompt")
    if isinstance(given[0], int):
        return [{"prompt_ids": tuple(given)}]
    return [{"prompt": one} if isinstance(one, str) else {"prompt_ids": one} for one in given]
