"""trimode as a chat model of LangChain and LangGraph: `ChatTrimode`.

Knows langchain-core's messages, chunks, callbacks and errors. Does not know agents or graphs, except the names of their
nodes, which become names of steps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from operator import itemgetter
from typing import Any, Final, Literal, get_args

from .core.extras import engine_of, missing

try:
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import BaseChatModel, LangSmithParams, ModelProfile
    from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages
    from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
    from langchain_core.utils.pydantic import is_basemodel_subclass
except ImportError as _absent:
    raise missing("langchain", _absent) from _absent

from pydantic import ConfigDict, Field

from trimode.policy.calls import Engine
from trimode.policy.errors import PolicyError
from trimode.policy.selection import StepKind

from .core.ask import Ask
from .core.causes import translated
from .core.facts import PROVIDER
from .langchain_messages import answer_of, chunk_of, document_of, error_of, host_of, node_of, told_by_name, tool_of

Method = Literal["json_schema", "function_calling", "json_mode"]
_OWN: Final = ("temperature", "max_tokens", "stop", "timeout", "step", "kind")
"""Fields of the model that are arguments of each call."""


class ChatTrimode(BaseChatModel):
    """A chat model in this process. `engine`: the engine; without one, that of the checkpoint `model` is loaded.

    `settings`: keyword arguments of `trimode.using` for every call, such as {"mode": "ar"}; arguments of `invoke` and
    `bind` with the same names are stronger. `step`, `kind`: name and kind of every call, instead of those that follow
    from the graph's node. `timeout`: seconds. Structured output and tool calls are constrained while they are decoded.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", protected_namespaces=())
    engine: Engine | None = None
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    timeout: float | None = None
    streaming: bool | None = None
    step: str | None = None
    kind: StepKind | None = None
    settings: dict[str, Any] = Field(default_factory=dict)

    def _model(self, kwargs: Mapping[str, Any]) -> str:
        return str(kwargs.get("model") or self._name)

    def _engine(self, kwargs: Mapping[str, Any]) -> Engine:
        """Returns the engine, loaded at the first use where none was given; `model=` of one call takes another."""
        asked: str | None = kwargs.get("model")
        return self.engine if self.engine is not None and asked is None else engine_of(asked or self.model)

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self._name, "temperature": self.temperature, "max_tokens": self.max_tokens, **self.settings}

    @property
    def _name(self) -> str:
        return str(self.model or (self.engine.checkpoint.name if self.engine is not None else "bundled"))

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        found = super()._get_ls_params(stop=stop, **kwargs)
        found["ls_provider"], found["ls_model_name"] = PROVIDER, self._model(kwargs)
        return found

    def _resolve_model_profile(self) -> ModelProfile:
        profile: ModelProfile = {
            "name": self._name, "text_inputs": True, "text_outputs": True, "image_inputs": False,
            "audio_inputs": False, "video_inputs": False, "pdf_inputs": False, "reasoning_output": True,
            "tool_calling": True, "tool_choice": True, "tool_call_streaming": True, "structured_output": True,
        }  # fmt: skip
        if self.engine is not None:
            profile["max_input_tokens"] = profile["max_output_tokens"] = self.engine.context
        return profile

    def bind_tools(
        self, tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | Any], *, tool_choice: Any = None,
        parallel_tool_calls: bool | None = None, strict: bool | None = None, **kwargs: Any,
    ) -> Runnable[Any, AIMessage]:  # fmt: skip
        """Returns the model with tools. `tool_choice`: "auto", "none", "any", a tool's name, True for the only tool.

        Every call fulfils its tool's schema. With `strict`, and for tools made of Python functions and types, it has
        the arguments listed there and no others.
        """
        described = [tool_of(tool, strict) for tool in tools]
        if tool_choice is True:
            if len(described) != 1:
                raise ValueError(f"tool_choice=True means the only tool, and there are {len(described)}")
            tool_choice = described[0]["function"]["name"]
        choice = "required" if tool_choice == "any" else tool_choice or None
        more = {"tool_choice": choice, "parallel_tool_calls": parallel_tool_calls}
        given = {name: value for name, value in more.items() if value is not None}
        return self.bind(tools=described, **given, **kwargs)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, method: Method = "json_schema",
        strict: bool | None = None, **kwargs: Any,
    ) -> Runnable[Any, Any]:  # fmt: skip
        """Returns a runnable of values of `schema`, to which the output is constrained while it is decoded.

        `method`: "json_schema"; "function_calling", as the call of a tool; "json_mode", any JSON object. `strict`: a
        JSON Schema's objects have no other properties than those it lists, as those of a type never have.
        """
        if method not in get_args(Method):
            raise ValueError(f"method={method!r}: expected one of {', '.join(get_args(Method))}")
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        document = {"type": "object"} if method == "json_mode" else document_of(schema, strict)
        told = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
        llm = self.bind(schema=document, ls_structured_output_format=told, **kwargs)
        parser: Any = JsonOutputParser()
        if isinstance(schema, type) and is_basemodel_subclass(schema):
            parser = PydanticOutputParser(pydantic_object=schema)
        if not include_raw:
            parsed_alone: Runnable[Any, Any] = llm | parser
            return parsed_alone
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> ChatResult:  # fmt: skip
        with translated(error_of):
            result = self._ask(messages, stop, run_manager, kwargs).generate(self._engine(kwargs))
        return answer_of(result, self._model(kwargs))

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> ChatResult:  # fmt: skip
        with translated(error_of):
            result = await self._ask(messages, stop, run_manager, kwargs).agenerate(self._engine(kwargs))
        return answer_of(result, self._model(kwargs))

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:  # fmt: skip
        with translated(error_of):
            for piece in self._ask(messages, stop, run_manager, kwargs).stream(self._engine(kwargs)):
                chunk = chunk_of(piece, self._model(kwargs))
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:  # fmt: skip
        with translated(error_of):
            async with aclosing(self._ask(messages, stop, run_manager, kwargs).astream(self._engine(kwargs))) as pieces:
                async for piece in pieces:
                    chunk = chunk_of(piece, self._model(kwargs))
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def _ask(self, messages: list[BaseMessage], stop: list[str] | None, run: Any, kwargs: dict[str, Any]) -> Ask:
        """Returns the call as the core takes it; `kwargs` that the core does not name are settings."""
        own = {name: getattr(self, name) for name in _OWN}
        given: dict[str, Any] = {**own, **self.settings, **({"stop": stop} if stop else {}), **kwargs}
        envelope = given.pop("response_format", None)
        if envelope is not None and given.get("schema") is not None:
            raise PolicyError("schema= and response_format=: they say the same; leave one of them out")
        return Ask.of(
            {**given, "model": None, "stop": given["stop"] or None, "schema": given.get("schema", envelope)},
            messages=[*map(told_by_name, convert_to_openai_messages(messages))],
            node=node_of(getattr(run, "metadata", None) or {}),
            host=host_of(run),
        )
