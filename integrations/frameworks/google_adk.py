"""trimode as a model of Google's Agent Development Kit: `TrimodeLlm`.

Knows ADK's requests, responses and the errors of google-genai, which ADK's own models raise. Does not know agents,
except their names, which become names of steps.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

from .core.extras import engine_of, missing

try:
    from google.adk.models._capabilities import LlmCapabilities
    from google.adk.models.base_llm import BaseLlm
    from google.adk.models.llm_request import LlmRequest
    from google.adk.models.llm_response import LlmResponse
    from google.genai import errors, types
except ImportError as _absent:
    raise missing("google-adk", _absent) from _absent

from pydantic import Field

from trimode.policy.calls import Engine, Result
from trimode.policy.selection import StepKind

from .core.ask import Ask
from .core.causes import Cause, translated
from .core.facts import PROVIDER, ending_of, facts_of
from .google_adk_requests import asked

_CODES: Final[Mapping[Cause, tuple[int, str]]] = {
    "too_long": (400, "INVALID_ARGUMENT"),
    "invalid": (400, "INVALID_ARGUMENT"),
    "overloaded": (503, "UNAVAILABLE"),
    "budget": (429, "RESOURCE_EXHAUSTED"),
    "timeout": (504, "DEADLINE_EXCEEDED"),
    "cancelled": (499, "CANCELLED"),
}
"""google-genai's codes by cause; all others are 500, INTERNAL."""


class TrimodeLlm(BaseLlm):
    """A model in this process. `engine`: the engine; without one, that of the checkpoint `model` is loaded.

    `settings`: keyword arguments of `trimode.using` for every call; `generate_content_config.http_options.extra_body`
    of an agent with the same names is stronger. `step`, `kind`: name and kind of every call, instead of those that
    follow from the agent's name. Output schemas and tool calls are constrained while they are decoded.
    """

    model: str = "bundled"
    engine: Engine | None = None
    step: str | None = None
    kind: StepKind | None = None
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def capabilities(self) -> LlmCapabilities:
        """An output schema is held together with tools."""
        return LlmCapabilities(output_schema_and_tools=True)

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        """Yields the model's turn; with `stream`, its pieces before it. Closing the generator ends the decoding."""
        self._maybe_append_user_content(llm_request)
        with translated(_error):
            ask = self._ask(llm_request)
            if not stream:
                yield _response(await ask.agenerate(self._engine()), self.model)
                return
            async with aclosing(ask.astream(self._engine())) as pieces:
                async for piece in pieces:
                    if piece.text or piece.thinking:
                        yield LlmResponse(content=_content(piece.thinking, piece.text), partial=True)
                    if piece.result is not None:
                        yield _response(piece.result, self.model)

    def _engine(self) -> Engine:
        return self.engine or engine_of(None if self.model == "bundled" else self.model)

    def _ask(self, request: LlmRequest) -> Ask:
        own = {"step": self.step, "kind": self.kind, **self.settings}
        return asked(request, {name: value for name, value in own.items() if value is not None})


def _content(thinking: str | None, text: str | None, calls: tuple[types.Part, ...] = ()) -> types.Content:
    thought = [types.Part(text=thinking, thought=True)] if thinking else []
    said = [types.Part(text=text)] if text else []
    return types.Content(role="model", parts=[*thought, *said, *calls])


def _response(result: Result, model: str) -> LlmResponse:
    """Returns ADK's response; the facts are in its `custom_metadata`."""
    calls = (types.FunctionCall(id=one.id, name=one.name, args=one.arguments) for one in result.calls)
    stats, cut = result.stats, ending_of(result) == "length"
    usage = types.GenerateContentResponseUsageMetadata(
        prompt_token_count=stats.prompt_tokens, cached_content_token_count=stats.cached_tokens,
        candidates_token_count=stats.output_tokens, total_token_count=stats.prompt_tokens + stats.output_tokens,
    )  # fmt: skip
    return LlmResponse(
        model_version=model,
        content=_content(result.thinking, result.content, tuple(types.Part(function_call=call) for call in calls)),
        partial=False,
        finish_reason=types.FinishReason.MAX_TOKENS if cut else types.FinishReason.STOP,
        custom_metadata={PROVIDER: facts_of(result)},
        usage_metadata=usage,
    )


def _error(cause: Cause, message: str) -> Exception:
    code, status = _CODES.get(cause, (500, "INTERNAL"))
    kind = errors.ClientError if code < 500 else errors.ServerError
    return kind(code, {"error": {"code": code, "message": message, "status": status}})
