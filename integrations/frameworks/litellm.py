"""trimode as a provider of litellm: `register()`, and then `litellm.completion(model="trimode/bundled", ...)`.

Knows litellm's custom handlers, responses, chunks and errors. Does not know agents; names of steps come from `step=`,
from `using` or from the call's `metadata`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final

from .core.extras import engine_of, missing

try:
    import litellm
    from litellm import ModelResponse, ModelResponseStream, exceptions
    from litellm.llms.custom_llm import CustomLLM
    from litellm.types.utils import Choices, Delta, Message, StreamingChoices, Usage
except ImportError as _absent:
    raise missing("litellm", _absent) from _absent

from trimode.policy.audit import HostRun
from trimode.policy.calls import Engine, Result

from .core.ask import Ask
from .core.causes import Cause, translated
from .core.completions import delta_values, message_values, usage_values
from .core.facts import PROVIDER, ending_of, facts_of
from .core.pieces import Piece

BUNDLED: Final = "bundled"
"""Name of the bundled checkpoint, and of a handler's own engine, in `model=`."""
_ERRORS: Final[Mapping[Cause, type[Any]]] = {
    "too_long": exceptions.ContextWindowExceededError,
    "overloaded": exceptions.RateLimitError,
    "output": exceptions.APIResponseValidationError,
    "timeout": exceptions.Timeout,
    "invalid": exceptions.BadRequestError,
    "budget": exceptions.BadRequestError,
}
"""litellm's errors by cause; all others are its InternalServerError. A spent budget is none that it tries again."""
_RENAMED: Final = {"max_completion_tokens": "max_tokens", "response_format": "schema"}
_LITELLM: Final = ("stream", "stream_options", "max_retries", "user")
"""Parameters that litellm itself uses, or that only name who asks."""
_ANSWERED: Final = (
    "provider_specific_fields", "reasoning_content", "thinking_blocks", "reasoning_items", "annotations", "images",
    "audio", "function_call",
)  # fmt: skip
"""Fields that litellm adds to an answer; in the next call they are left out, as chat templates do not show them."""


class TrimodeLLM(CustomLLM):  # type: ignore[misc, unused-ignore]
    """A handler of `custom_provider_map`. `engine`: an engine, or the source of a checkpoint; None: the bundled one.

    `settings`: keyword arguments of `trimode.using` for every call, and `step` and `kind`; parameters of one call with
    the same names are stronger. Other names than "bundled" in `model=` are sources of other checkpoints.
    """

    def __init__(self, engine: Engine | str | None = None, **settings: Any) -> None:
        super().__init__()
        self._source, self._settings = engine, settings

    def completion(self, model: str, messages: list[Any], *_: Any, **call: Any) -> ModelResponse:
        """Returns the model's turn."""
        with translated(_errors(model)):
            result = self._ask(messages, call).generate(self._engine(model))
        return _answered(call["model_response"], result, model)

    async def acompletion(self, model: str, messages: list[Any], *_: Any, **call: Any) -> ModelResponse:
        """Returns the model's turn, for tasks; a cancelled task cancels the decoding."""
        with translated(_errors(model)):
            result = await self._ask(messages, call).agenerate(self._engine(model))
        return _answered(call["model_response"], result, model)

    def streaming(self, model: str, messages: list[Any], *_: Any, **call: Any) -> Iterator[Any]:
        """Returns the turn in chunks; closing the stream cancels what is not decoded yet."""
        with translated(_errors(model)):
            pieces = self._ask(messages, call).stream(self._engine(model))
        return _chunks(pieces, model)

    def astreaming(self, model: str, messages: list[Any], *_: Any, **call: Any) -> AsyncIterator[Any]:  # type: ignore[override, unused-ignore]
        """Returns what `streaming` does, for tasks."""
        with translated(_errors(model)):
            pieces = self._ask(messages, call).astream(self._engine(model))
        return _achunks(pieces, model)

    def _engine(self, model: str) -> Engine:
        return engine_of(self._source if model == BUNDLED else model)

    def _ask(self, messages: list[Any], call: Mapping[str, Any]) -> Ask:
        """Returns the call as the core takes it; parameters that litellm has no name for are settings."""
        asked = {name: value for name, value in call["optional_params"].items() if name not in _LITELLM}
        given = {**self._settings, **{_RENAMED.get(name, name): value for name, value in asked.items()}}
        timeout = call.get("timeout")
        about = call.get("litellm_params") or {}
        found = about.get("metadata") or {}
        agent = str(found.get("agent_name") or found.get("generation_name") or "")
        return Ask.of(
            {"timeout": timeout if isinstance(timeout, int | float) else None, **given},
            messages=[*map(_shown, messages)],
            node=agent,
            host=_host(about, agent),
        )


def register(engine: Engine | str | None = None, *, provider: str = PROVIDER, **settings: Any) -> TrimodeLLM:
    """Makes `model="trimode/bundled"` a model of litellm in this process, and returns its handler.

    A handler that was registered for the same `provider` is replaced.
    """
    handler = TrimodeLLM(engine, **settings)
    others = [one for one in litellm.custom_provider_map if one["provider"] != provider]
    litellm.custom_provider_map = [*others, {"provider": provider, "custom_handler": handler}]
    return handler


def _host(about: Mapping[str, Any], agent: str) -> HostRun:
    """Returns litellm's ids: of the trace that a caller named, else of the call, and of the session."""
    run = about.get("litellm_trace_id") or about.get("litellm_call_id") or ""
    session = str(about.get("litellm_session_id") or "")
    return HostRun(framework="litellm", run=str(run), conversation=session, agent=agent)


def _shown(message: Mapping[str, Any]) -> Mapping[str, Any]:
    said = message.get("role") == "assistant"
    return {key: value for key, value in message.items() if not (said and key in _ANSWERED)}


def _errors(model: str) -> Any:
    def made(cause: Cause, message: str) -> Exception:
        kind = _ERRORS.get(cause, exceptions.InternalServerError)
        found: Exception = kind(message=message, model=model, llm_provider=PROVIDER)
        return found

    return made


def _answered(response: ModelResponse, result: Result, model: str) -> ModelResponse:
    """Returns litellm's response, filled; the facts are in `provider_specific_fields` of its message."""
    thinking: dict[str, Any] = {"reasoning_content": result.thinking} if result.thinking else {}
    message = Message(**message_values(result), **thinking, provider_specific_fields={PROVIDER: facts_of(result)})
    response.choices = [Choices(index=0, message=message, finish_reason=ending_of(result))]
    response.model = model
    setattr(response, "usage", Usage(**usage_values(result)))  # noqa: B010 - the field is an extra one
    return response


def _chunk(model: str, delta: Delta, **more: Any) -> ModelResponseStream:
    ending = more.pop("finish_reason", None)
    return ModelResponseStream(
        model=model, choices=[StreamingChoices(index=0, delta=delta, finish_reason=ending)], **more
    )


def _of_piece(piece: Piece, model: str) -> Iterator[ModelResponseStream]:
    """Yields the chunks of one piece; of the last one also the tokens and facts, and then why the turn ended."""
    if piece.text or piece.thinking or piece.call is not None:
        yield _chunk(model, Delta(**delta_values(piece)))
    if (result := piece.result) is not None:
        facts = Delta(content="", provider_specific_fields={PROVIDER: facts_of(result)})
        yield _chunk(model, facts, usage=Usage(**usage_values(result)))
        yield _chunk(model, Delta(), finish_reason=ending_of(result))


def _chunks(pieces: Iterator[Piece], model: str) -> Iterator[ModelResponseStream]:
    with translated(_errors(model)):
        for piece in pieces:
            yield from _of_piece(piece, model)


async def _achunks(pieces: AsyncGenerator[Piece], model: str) -> AsyncIterator[ModelResponseStream]:
    with translated(_errors(model)):
        async with aclosing(pieces):
            async for piece in pieces:
                for chunk in _of_piece(piece, model):
                    yield chunk
