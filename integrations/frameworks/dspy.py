"""trimode as an engine of dspy: `trimode_lm()`, over `TrimodeEngine` and `AsyncTrimodeEngine`.

Knows dspy's canonical responses, stream events and errors (`dspy.lm15`), and the predictor that is running, which
names the step. Does not know adapters or optimizers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final

from .core.extras import engine_of, missing

try:
    import dspy
    from dspy import lm15
except ImportError as _absent:
    raise missing("dspy", _absent) from _absent

from trimode.policy.calls import Engine, Result

from .core.ask import Ask
from .core.causes import Cause, translated
from .core.facts import PROVIDER, Ending, ending_of, facts_of
from .core.pieces import Piece
from .dspy_requests import asked

_ENDINGS: Final[Mapping[Ending, Any]] = {"stop": "stop", "length": "length", "tool_calls": "tool_call"}
_ERRORS: Final[Mapping[Cause, type[lm15.LM15Error]]] = {
    "too_long": lm15.ContextLengthError,
    "overloaded": lm15.RateLimitError,
    "budget": lm15.BillingError,
    "timeout": lm15.TimeoutError,
    "invalid": lm15.InvalidRequestError,
}
"""Errors of dspy's engines by cause; all others are its ProviderError, which it does not try again."""
_UNNAMED: Final = ("", "self", "predict", "StringSignature")
"""Names of predictors outside of a program, and of signatures that are written as text."""


class _Shared:
    """What both engines share. `engine`: an engine, or the source of a checkpoint; None loads the bundled one.

    `settings`: keyword arguments of `trimode.using` for every call, `step`, `kind` and `timeout` in seconds. What a
    request says of the same is stronger, also in its `Config.extensions`.
    """

    supports_function_calling = True
    supports_response_schema = True
    supports_reasoning = False
    supported_params = frozenset({
        "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "response_format", "tools", "tool_choice",
        "parallel_tool_calls",
    })  # fmt: skip

    def __init__(self, engine: Engine | str | None = None, **settings: Any) -> None:
        self._source, self._settings = engine, settings

    @property
    def engine(self) -> Engine:
        """The engine; loaded at the first use where none was given."""
        return engine_of(self._source)

    def dump_state(self) -> dict[str, Any]:
        """Returns what a saved program needs to load the engine again. Raises TypeError for an engine in memory."""
        if isinstance(self._source, Engine):
            raise TypeError("an engine in memory cannot be saved: give the source of its checkpoint instead")
        return {"engine": self._source, "settings": self._settings}

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> _Shared:
        """Returns the engine that `dump_state` describes."""
        return cls(state["engine"], **state["settings"])

    def _ask(self, request: lm15.Request) -> Ask:
        return asked(request, self._settings, _node())


class TrimodeEngine(_Shared):
    """An engine in this process, for `dspy.LM(..., engine=)`. Response formats and tool calls are constrained."""

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Returns the model's turn."""
        with translated(_error):
            result = self._ask(request).generate(self.engine)
        return _response(result, request.model)

    def stream(self, request: lm15.Request) -> Iterator[Any]:
        """Returns the turn as events; closing the iterator cancels what is not decoded yet."""
        with translated(_error):
            pieces = self._ask(request).stream(self.engine)
        return _events(pieces, request.model)

    def close(self) -> None:
        """Does nothing: the engine may serve others."""


class AsyncTrimodeEngine(_Shared):
    """What `TrimodeEngine` is, for tasks: `dspy.LM(..., async_engine=)`. A cancelled task cancels the decoding."""

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Returns the model's turn."""
        with translated(_error):
            result = await self._ask(request).agenerate(self.engine)
        return _response(result, request.model)

    def stream(self, request: lm15.Request) -> AsyncIterator[Any]:
        """Returns the turn as events."""
        with translated(_error):
            pieces = self._ask(request).astream(self.engine)
        return _aevents(pieces, request.model)

    async def aclose(self) -> None:
        """Does nothing: the engine may serve others."""


def trimode_lm(
    engine: Engine | str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    cache: bool = False,
    **options: Any,
) -> dspy.LM:
    """Returns dspy's language model over both engines, with `settings`; `options`: arguments of `dspy.LM`.

    `cache`: whether dspy answers a request that it has seen from its own cache, without decoding or a record of it.
    """
    name = engine.checkpoint.name if isinstance(engine, Engine) else engine or "bundled"
    given = {**(settings or {})}
    pair = {"engine": TrimodeEngine(engine, **given), "async_engine": AsyncTrimodeEngine(engine, **given)}
    return dspy.LM(f"{PROVIDER}/{name}", cache=cache, num_retries=0, **pair, **options)


def _node() -> str:
    """Returns the running predictor's name in its program, as `named_predictors` has it, else that of its signature."""
    modules = [*(dspy.settings.caller_modules or ())]
    if not modules:
        return ""
    names = (name for name, one in modules[0].named_predictors() if one is modules[-1])
    name = next(names, "").removesuffix(".predict")
    signature = str(getattr(getattr(modules[-1], "signature", None), "__name__", ""))
    return next((one for one in (name, signature) if one not in _UNNAMED), "")


def _error(cause: Cause, message: str) -> Exception:
    found: Exception = _ERRORS.get(cause, lm15.ProviderError)(message, provider=PROVIDER)
    return found


def _usage(result: Result) -> lm15.Usage:
    stats = result.stats
    return lm15.Usage(
        input_tokens=stats.prompt_tokens, output_tokens=stats.output_tokens, cache_read_tokens=stats.cached_tokens
    )


def _response(result: Result, model: str) -> lm15.Response:
    """Returns dspy's response; the facts are in its `provider_data`."""
    thinking = [lm15.ThinkingPart(result.thinking)] if result.thinking else []
    calls = [lm15.ToolCallPart(call.id, call.name, call.arguments) for call in result.calls]
    text = [lm15.TextPart(result.content or "")] if result.content or not (thinking or calls) else []
    return lm15.Response(
        id=result.audit_id, model=model, message=lm15.Message.assistant([*thinking, *text, *calls]),
        finish_reason=_ENDINGS[ending_of(result)], usage=_usage(result), provider_data={PROVIDER: facts_of(result)},
    )  # fmt: skip


def _of_piece(piece: Piece, parts: dict[str, int]) -> Iterator[Any]:
    """Yields the events of one piece. `parts`: the numbers of the message's parts so far."""
    if piece.thinking:
        yield lm15.StreamDeltaEvent(lm15.ThinkingDelta(piece.thinking, parts.setdefault("thinking", len(parts))))
    if piece.text:
        yield lm15.StreamDeltaEvent(lm15.TextDelta(piece.text, parts.setdefault("text", len(parts))))
    if (call := piece.call) is not None:
        part = parts.setdefault(f"call {call.id}", len(parts))
        yield lm15.StreamDeltaEvent(lm15.ToolCallDelta(call.arguments, part, id=call.id, name=call.name))
    if (result := piece.result) is not None:
        facts = {PROVIDER: facts_of(result)}
        yield lm15.StreamEndEvent(_ENDINGS[ending_of(result)], _usage(result), provider_data=facts)


def _events(pieces: Iterator[Piece], model: str) -> Iterator[Any]:
    parts: dict[str, int] = {}
    yield lm15.StreamStartEvent(model=model)
    with translated(_error):
        for piece in pieces:
            yield from _of_piece(piece, parts)


async def _aevents(pieces: AsyncGenerator[Piece], model: str) -> AsyncIterator[Any]:
    parts: dict[str, int] = {}
    yield lm15.StreamStartEvent(model=model)
    with translated(_error):
        async with aclosing(pieces):
            async for piece in pieces:
                for event in _of_piece(piece, parts):
                    yield event
