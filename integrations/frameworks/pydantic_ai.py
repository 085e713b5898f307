"""trimode as a model of pydantic-ai: `TrimodeModel`, with settings of its own.

Knows pydantic-ai's messages, request parameters, stream events and errors. Does not know agents, except their names,
which become names of steps.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from .extras import loaded, missing

try:
    from pydantic_ai import RunContext, exceptions
    from pydantic_ai._run_context import get_current_run_context
    from pydantic_ai.messages import (
        FinishReason,
        ModelMessage,
        ModelResponse,
        ModelResponseStreamEvent,
        TextPart,
        ThinkingPart,
        ToolCallPart,
    )
    from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse, check_allow_model_requests
    from pydantic_ai.models._tool_choice import resolve_tool_choice
    from pydantic_ai.profiles import ModelProfile
    from pydantic_ai.settings import ModelSettingName, ModelSettings
    from pydantic_ai.usage import RequestUsage
except ImportError as _absent:
    raise missing("pydantic-ai", _absent) from _absent

from trimode.engine.result import Mode
from trimode.policy.audit import HostRun
from trimode.policy.calls import Engine, Result
from trimode.policy.selection import Guarantee, StepKind

from .ask import Ask
from .causes import Cause, translated
from .facts import PROVIDER, Ending, ending_of, facts_of
from .pieces import Piece
from .pydantic_ai_messages import chat_messages, system_messages, tool_of

_PREFIX: Final = "trimode_"
_ENDINGS: Final[Mapping[Ending, FinishReason]] = {"stop": "stop", "length": "length", "tool_calls": "tool_call"}
_SETTINGS: Final = {
    "max_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "seed": "seed",
    "stop_sequences": "stop",
}  # fmt: skip
_ERRORS: Final[Mapping[Cause, type[exceptions.ModelAPIError]]] = {
    "too_long": exceptions.ModelContextWindowExceededError,
    "overloaded": exceptions.ModelOverloadedError,
    "budget": exceptions.ModelQuotaExceededError,
    "timeout": exceptions.ModelTimeoutError,
    "invalid": exceptions.ModelRequestRejectedError,
}
"""pydantic-ai's errors by cause; "output" is its UnexpectedModelBehavior, all others its ModelAPIError."""


_TUNING: Final[frozenset[ModelSettingName]] = frozenset(
    {"presence_penalty", "frequency_penalty", "logit_bias", "service_tier"}
)
"""Settings that we do not have, and that pydantic-ai itself leaves out without a word."""
_WARNING: Final = exceptions.UnsupportedSettingWarning


class TrimodeModelSettings(ModelSettings, total=False):  # type: ignore[call-arg, unused-ignore]
    """pydantic-ai's settings, and ours with a prefix: name and kind of the step, and keyword arguments of `using`."""

    trimode_step: str
    trimode_kind: StepKind
    trimode_mode: Mode
    trimode_block_length: int
    trimode_threshold: float
    trimode_rows: int
    trimode_exact: bool
    trimode_max_thinking_tokens: int
    trimode_guarantee: Guarantee
    trimode_retries: int
    trimode_deadline: float


class TrimodeModel(Model[None]):
    """A model in this process. `engine`: an engine, or the source of a checkpoint; None loads the bundled one.

    Output types are constrained while they are decoded (`NativeOutput`, the default here), and so are tool calls.
    """

    unsupported_settings = frozenset({*_TUNING, "extra_headers", "extra_body", "max_retries", "citations"})
    _unsupported_file_inputs = frozenset({"image", "document", "audio", "video"})

    def __init__(self, engine: Engine | str | None = None, *, settings: ModelSettings | None = None) -> None:
        self._source = engine
        profile = ModelProfile(
            supports_json_schema_output=True, supports_json_object_output=True, supports_image_input=False,
            default_structured_output_mode="native",
        )  # fmt: skip
        super().__init__(settings=settings, profile=profile)

    @property
    def engine(self) -> Engine:
        """The engine; loaded at the first use where none was given."""
        return self._source if isinstance(self._source, Engine) else loaded(self._source)

    @property
    def model_name(self) -> str:
        """The checkpoint's name."""
        return self.engine.checkpoint.name

    @property
    def system(self) -> str:
        """The name of the provider, on spans and responses."""
        return PROVIDER

    async def request(
        self, messages: list[ModelMessage], model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:  # fmt: skip
        """Returns the model's turn."""
        check_allow_model_requests()
        settings, parameters = self.prepare_request(model_settings, model_request_parameters)
        with translated(self.error_of):
            result = await self._ask(messages, settings, parameters, get_current_run_context()).agenerate(self.engine)
        return self._response(result)

    @asynccontextmanager
    async def request_stream(
        self, messages: list[ModelMessage], model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters, run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:  # fmt: skip
        """Yields the turn as a stream; leaving the block cancels what is not decoded yet."""
        check_allow_model_requests()
        settings, parameters = self.prepare_request(model_settings, model_request_parameters)
        with translated(self.error_of):
            run = run_context or get_current_run_context()
            stream = self._ask(messages, settings, parameters, run).astream(self.engine)
        async with aclosing(stream) as pieces:
            yield TrimodeStreamedResponse(model_request_parameters=parameters, _model=self, _pieces=pieces)

    def _ask(
        self, messages: list[ModelMessage], given: ModelSettings | None, parameters: ModelRequestParameters,
        run: RunContext[Any] | None,
    ) -> Ask:  # fmt: skip
        settings: dict[str, Any] = {**(given or {})}
        own = {key.removeprefix(_PREFIX): settings[key] for key in settings if key.startswith(_PREFIX)}
        timeout = settings.get("timeout")
        if timeout is not None and not isinstance(timeout, int | float):
            raise exceptions.UserError(f"timeout={timeout!r}: expected seconds; there is no connection to time")
        for name in sorted(_TUNING & settings.keys()):
            warnings.warn(f"{name} has no part in this call: {PROVIDER} has no such setting", _WARNING, stacklevel=2)
        choice = resolve_tool_choice(given, parameters)
        mode, named = choice if isinstance(choice, tuple) else (choice, set(parameters.declared_tool_defs))
        tools = [tool_of(tool) for name, tool in parameters.declared_tool_defs.items() if name in named]
        output, agent = parameters.output_object, None if run is None or run.agent is None else run.agent.name
        prepared = self.prepare_messages(messages, parameters)
        said = [one for message in prepared for one in chat_messages(message)]
        return Ask(
            messages=[*system_messages(self._get_instruction_parts(messages, parameters)), *said],
            tools=tools,
            tool_choice=mode if tools else None,
            parallel=settings.get("parallel_tool_calls") if tools else None,
            schema=None if output is None or mode == "required" else output.json_schema,
            node=agent or "",
            step=own.pop("step", None),
            kind=own.pop("kind", None),
            timeout=timeout,
            settings={ours: settings[name] for name, ours in _SETTINGS.items() if name in settings} | own,
            host=_host(run, agent),
        )  # fmt: skip

    def error_of(self, cause: Cause, message: str) -> Exception:
        """Returns the failure as an error of pydantic-ai."""
        if cause == "output":
            return exceptions.UnexpectedModelBehavior(message)
        return _ERRORS.get(cause, exceptions.ModelAPIError)(self.model_name, message)

    def _response(self, result: Result) -> ModelResponse:
        thinking = [ThinkingPart(result.thinking)] if result.thinking else []
        text = [TextPart(result.content)] if result.content else []
        calls = [ToolCallPart(call.name, call.arguments, tool_call_id=call.id) for call in result.calls]
        return ModelResponse(
            parts=[*thinking, *text, *calls], usage=usage_of(result), model_name=self.model_name,
            provider_name=PROVIDER, provider_response_id=result.audit_id, provider_details=facts_of(result),
            finish_reason=_ENDINGS[ending_of(result)],
        )  # fmt: skip


def _host(run: RunContext[Any] | None, agent: str | None) -> HostRun:
    run_id, conversation = (None, None) if run is None else (run.run_id, run.conversation_id)
    return HostRun(framework="pydantic-ai", run=run_id or "", conversation=conversation or "", agent=agent or "")


@dataclass(kw_only=True)
class TrimodeStreamedResponse(StreamedResponse):
    """The stream of one turn."""

    _model: TrimodeModel
    _pieces: AsyncGenerator[Piece]
    _timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    _closed: bool = False

    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        with translated(self._model.error_of):
            while not self._closed and (piece := await anext(self._pieces, None)) is not None:
                for event in self._events(piece):
                    yield event

    def _events(self, piece: Piece) -> Iterator[ModelResponseStreamEvent]:
        if piece.thinking:
            yield from self._parts_manager.handle_thinking_delta(vendor_part_id="thinking", content=piece.thinking)
        if piece.text:
            yield from self._parts_manager.handle_text_delta(vendor_part_id="text", content=piece.text)
        if (call := piece.call) is not None:
            yield from self._parts_manager.handle_tool_call_delta_events(
                vendor_part_id=call.id, tool_name=call.name, args=call.arguments or None, tool_call_id=call.id
            )
        if (result := piece.result) is not None:
            self._usage, self.provider_details = usage_of(result), facts_of(result)
            self.finish_reason, self.provider_response_id = _ENDINGS[ending_of(result)], result.audit_id

    async def close_stream(self) -> None:
        """Cancels the decoding of what has not been read. A pending read ends first, within one pass."""
        self._closed = True
        if not getattr(self._pieces, "ag_running", False):
            await self._pieces.aclose()

    @property
    def model_name(self) -> str:
        return self._model.model_name

    @property
    def provider_name(self) -> str:
        return PROVIDER

    @property
    def provider_url(self) -> None:
        """None: the model runs in this process."""

    @property
    def timestamp(self) -> datetime:
        return self._timestamp


def usage_of(result: Result) -> RequestUsage:
    """Returns the tokens; `details` has the drafts, which are no output of their own."""
    stats = result.stats
    details = {"drafted": stats.drafted, "draft_accepted": stats.accepted, "draft_rejected": stats.rejected,
               "forward_passes": stats.forward_passes}  # fmt: skip
    return RequestUsage(
        input_tokens=stats.prompt_tokens, cache_read_tokens=stats.cached_tokens, output_tokens=stats.output_tokens,
        details=details,
    )  # fmt: skip
