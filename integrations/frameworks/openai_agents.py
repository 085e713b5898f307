"""trimode as a model of OpenAI's Agents SDK: `TrimodeModel`, and `TrimodeProvider` for a run's configuration.

Knows the SDK's items, stream events, model settings, errors and generation spans. Does not know agents, except their
names, which become names of steps. Items become messages and messages items by the SDK's own converter.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from .core.extras import engine_of, missing

try:
    from agents import (
        AgentOutputSchemaBase,
        Handoff,
        Model,
        ModelProvider,
        ModelSettings,
        ModelTracing,
        Tool,
        exceptions,
    )
    from agents.items import ModelResponse, TResponseInputItem, TResponseStreamEvent
    from agents.models.chatcmpl_converter import Converter
    from agents.models.chatcmpl_stream_handler import ChatCmplStreamHandler
    from agents.models.fake_id import FAKE_RESPONSES_ID
    from agents.tracing import GenerationSpanData, Span, generation_span, get_current_span, get_current_trace
    from openai.types.responses import Response, ResponseCompletedEvent
except ImportError as _absent:
    raise missing("openai-agents", _absent) from _absent

from trimode.policy.audit import HostRun
from trimode.policy.calls import Engine, Result

from .core.ask import Ask
from .core.causes import Cause, translated
from .core.facts import facts_of
from .openai_agents_items import add_facts, chunks_of, counted, message_of, usage_of

_REFUSED: Final = (
    "frequency_penalty", "presence_penalty", "truncation", "reasoning", "verbosity", "metadata", "store",
    "prompt_cache_retention", "prompt_cache_options", "response_include", "top_logprobs", "extra_query", "extra_body",
    "extra_headers", "context_management",
)  # fmt: skip
"""Model settings that this model has no counterpart of; `timeout` and `retry` are the runner's own."""


class TrimodeModel(Model):
    """A model in this process. `engine`: an engine, or the source of a checkpoint; None loads the bundled one.

    `settings`: keyword arguments of `trimode.using` for every call, and `step` and `kind`; `ModelSettings.extra_args`
    with the same names are stronger. Calls of tools and outputs with a type are constrained while they are decoded.
    """

    def __init__(self, engine: Engine | str | None = None, **settings: Any) -> None:
        self._source, self._settings = engine, settings

    @property
    def engine(self) -> Engine:
        """The engine; loaded at the first use where none was given."""
        return engine_of(self._source)

    @property
    def name(self) -> str:
        return self.engine.checkpoint.name

    async def get_response(
        self, system_instructions: str | None, input: str | list[TResponseInputItem], model_settings: ModelSettings,
        tools: list[Tool], output_schema: AgentOutputSchemaBase | None, handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing, *, previous_response_id: str | None = None, conversation_id: str | None = None,
        prompt: Any = None,
    ) -> ModelResponse:  # fmt: skip
        """Returns the model's turn, as a message, calls of tools, or both."""
        _check(previous_response_id=previous_response_id, conversation_id=conversation_id, prompt=prompt)
        ask = self._ask(system_instructions, input, model_settings, tools, output_schema, handoffs)
        with self._span(model_settings, tracing) as span:
            if tracing.include_data():
                span.span_data.input = [*map(dict, ask.messages)]
            with translated(_error):
                result = await ask.agenerate(self.engine)
            message = message_of(result)
            span.span_data.usage = usage_of(result).model_dump()
            if tracing.include_data():
                span.span_data.output = [message.model_dump()]
        facts = facts_of(result)
        return ModelResponse(
            output=Converter.message_to_output_items(message, provider_data={"model": self.name, "trimode": facts}),
            usage=counted(result),
            response_id=None,
            request_id=result.audit_id,
            raw_usage=facts if model_settings.preserve_raw_usage else None,
        )

    async def stream_response(
        self, system_instructions: str | None, input: str | list[TResponseInputItem], model_settings: ModelSettings,
        tools: list[Tool], output_schema: AgentOutputSchemaBase | None, handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing, *, previous_response_id: str | None = None, conversation_id: str | None = None,
        prompt: Any = None,
    ) -> AsyncIterator[TResponseStreamEvent]:  # fmt: skip
        """Yields the turn as events of the Responses API; closing the iterator cancels what is not decoded yet."""
        _check(previous_response_id=previous_response_id, conversation_id=conversation_id, prompt=prompt)
        ask = self._ask(system_instructions, input, model_settings, tools, output_schema, handoffs)
        response = Response(
            id=FAKE_RESPONSES_ID, created_at=time.time(), model=self.name, object="response", output=[], tools=[],
            tool_choice="auto", parallel_tool_calls=bool(model_settings.parallel_tool_calls),
        )  # fmt: skip
        with self._span(model_settings, tracing) as span, translated(_error):
            async with aclosing(ask.astream(self.engine)) as pieces:
                last = list[Result]()
                chunks: Any = chunks_of(pieces, self.name, last.append)
                async for event in ChatCmplStreamHandler.handle_stream(response, chunks, model=self.name):
                    if isinstance(event, ResponseCompletedEvent) and event.response.usage is not None:
                        span.span_data.usage = event.response.usage.model_dump()
                        add_facts(event.response, facts_of(last[0]))
                    yield event

    def _span(self, settings: ModelSettings, tracing: ModelTracing) -> Span[GenerationSpanData]:
        """Returns the SDK's own span of a generation; it is no OpenTelemetry span, and so no double of ours."""
        config = {key: value for key, value in settings.to_traceable_dict().items() if key != "metadata"}
        return generation_span(model=self.name, model_config=config, disabled=tracing.is_disabled())

    def _ask(
        self, system: str | None, items: str | list[TResponseInputItem], settings: ModelSettings, tools: list[Tool],
        output: AgentOutputSchemaBase | None, handoffs: list[Handoff[Any, Any]],
    ) -> Ask:  # fmt: skip
        _check(**{name: getattr(settings, name) for name in _REFUSED})
        own = {"temperature": settings.temperature, "top_p": settings.top_p, "max_tokens": settings.max_tokens}
        own = {name: value for name, value in own.items() if value is not None}
        given = {**self._settings, **own, **(settings.extra_args or {})}
        described = [*map(Converter.tool_to_openai, tools), *map(Converter.convert_handoff_tool, handoffs)]
        messages: list[Any] = [{"role": "system", "content": system}] if system else []
        return Ask.of(
            given,
            messages=[*messages, *Converter.items_to_messages(items, model=self.name)],
            tools=[dict(tool) for tool in described],
            tool_choice=_choice(settings.tool_choice) if described else None,
            parallel=settings.parallel_tool_calls if described else None,
            schema=None if output is None or output.is_plain_text() else output.json_schema(),
            node=_agent(),
            host=_host(),
        )


class TrimodeProvider(ModelProvider):
    """Gives every agent of a run the same model: `RunConfig(model_provider=TrimodeProvider(engine))`."""

    def __init__(self, engine: Engine | str | None = None, **settings: Any) -> None:
        self._source, self._settings = engine, settings

    def get_model(self, model_name: str | None) -> Model:
        """Returns the model; an agent's `model_name` is the source of another checkpoint."""
        return TrimodeModel(self._source if model_name is None else model_name, **self._settings)


def _agent() -> str:
    """Returns the name of the running agent, which the SDK's current span knows; "" without tracing."""
    data: Any = getattr(get_current_span(), "span_data", None)
    return str(getattr(data, "agent_name", None) or (getattr(data, "name", None) if data is not None else None) or "")


def _host() -> HostRun:
    """Returns the ids of the SDK's trace of the run and of its group; without tracing it has neither."""
    run = get_current_trace()
    named = None if run is None or run.trace_id == "no-op" else run.export()
    ids = named or {}
    group, agent = str(ids.get("group_id") or ""), _agent()
    return HostRun(framework="openai-agents", run=str(ids.get("id") or ""), conversation=group, agent=agent)


def _choice(choice: Any) -> Any:
    if choice is not None and not isinstance(choice, str):
        raise exceptions.UserError(f"tool_choice={choice!r}: expected auto, none, required or a tool's name")
    return choice


def _check(**given: Any) -> None:
    """Raises UserError for arguments and settings that this model has no counterpart of."""
    found = [name for name, value in given.items() if value not in (None, [], {})]
    if found:
        raise exceptions.UserError(f"{found[0]}={given[found[0]]!r}: a model in this process has none; leave it out")


def _error(cause: Cause, message: str) -> Exception:
    if cause == "output":
        return exceptions.ModelBehaviorError(message)
    return (exceptions.UserError if cause in ("invalid", "too_long") else exceptions.AgentsException)(message)
