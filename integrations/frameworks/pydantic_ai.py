"""trimode as a model of pydantic-ai: `TrimodeModel`, with settings of its own.

Knows pydantic-ai's messages, request parameters, stream events and errors. Does not know agents, except their names,
which become names of steps.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, cast

from .core.extras import engine_of, missing

try:
    from pydantic_ai import RunContext, exceptions
    from pydantic_ai._run_context import get_current_run_context
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse, check_allow_model_requests
    from pydantic_ai.models._tool_choice import resolve_tool_choice
    from pydantic_ai.profiles import ModelProfile
    from pydantic_ai.settings import ModelSettingName, ModelSettings
except ImportError as _absent:
    raise missing("pydantic-ai", _absent) from _absent

from trimode.engine.result import Mode
from trimode.policy.audit import HostRun
from trimode.policy.calls import Engine
from trimode.policy.selection import Guarantee, StepKind

from .core.ask import Ask
from .core.causes import translated
from .core.facts import PROVIDER
from .pydantic_ai_messages import chat_messages, system_messages, tool_of
from .pydantic_ai_results import TrimodeStreamedResponse, error_of, response_of

_PREFIX: Final = "trimode_"
_SETTINGS: Final = {
    "max_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "seed": "seed",
    "stop_sequences": "stop",
}  # fmt: skip
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
        return engine_of(self._source)

    def decoding(self, **settings: Any) -> TrimodeModel:
        """Returns the model with `settings` over its own: keyword arguments of `trimode.using`, `step` and `kind`."""
        named = {ours: name for name, ours in _SETTINGS.items()}
        theirs = {named.get(name, f"{_PREFIX}{name}"): value for name, value in settings.items()}
        return TrimodeModel(self._source, settings=cast(ModelSettings, {**(self.settings or {}), **theirs}))

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
        with translated(error_of(self.model_name)):
            result = await self._ask(messages, settings, parameters, get_current_run_context()).agenerate(self.engine)
        return response_of(result, self.model_name)

    @asynccontextmanager
    async def request_stream(
        self, messages: list[ModelMessage], model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters, run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:  # fmt: skip
        """Yields the turn as a stream; leaving the block cancels what is not decoded yet."""
        check_allow_model_requests()
        settings, parameters = self.prepare_request(model_settings, model_request_parameters)
        with translated(error_of(self.model_name)):
            run = run_context or get_current_run_context()
            stream = self._ask(messages, settings, parameters, run).astream(self.engine)
        async with aclosing(stream) as pieces:
            yield TrimodeStreamedResponse(model_request_parameters=parameters, _name=self.model_name, _pieces=pieces)

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
        renamed = {ours: settings[name] for name, ours in _SETTINGS.items() if name in settings}
        return Ask.of(
            {"timeout": timeout, **renamed, **own},
            messages=[*system_messages(self._get_instruction_parts(messages, parameters)), *said],
            tools=tools,
            tool_choice=mode if tools else None,
            parallel=settings.get("parallel_tool_calls") if tools else None,
            schema=None if output is None or mode == "required" else output.json_schema,
            node=agent or "",
            host=_host(run, agent),
        )


def _host(run: RunContext[Any] | None, agent: str | None) -> HostRun:
    run_id, conversation = (None, None) if run is None else (run.run_id, run.conversation_id)
    return HostRun(framework="pydantic-ai", run=run_id or "", conversation=conversation or "", agent=agent or "")
