"""A local engine as a target: each call streamed in a session of its own, as an agent would make it.

Knows the public engine and recorded calls. Does not know scores. Each mode has a cache scope of its own, so that none
finds prefixes that another has prefilled.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

from trimode.engine.errors import RequestError
from trimode.engine.request import DecodeRequest
from trimode.policy.audit import versions
from trimode.policy.calls import Engine, Result, StreamEvent, call_of
from trimode.policy.schema import ToolCall
from trimode.policy.selection import STEP_KINDS, Auto, Policy, PolicyProtocol, Settings, variant
from trimode.policy.steps import session, using

from ..server.wire.conversation import joined
from .calls import Answer, RecordedCall, Times, ToolUse, Usage
from .refusals import RunRefused
from .targets import LOCAL, Reply

AUTO: Final = "auto"
PACKAGE: Final = "default"
"""Mode that stands for the package's own table."""


class LocalTarget:
    """An engine in one mode, with options as `trimode bench` names them: `linear_spec:8`. `auto` begins with nothing
    learned, and what it learns here is kept nowhere."""

    def __init__(self, engine: Engine, mode: str) -> None:
        self._engine, self._mode = engine, mode
        self.name, self.engine = f"{LOCAL}:{mode}", LOCAL
        self._policy, self._scope = _policy(engine, mode), f"workload {self.name}"

    @property
    def settings(self) -> Mapping[str, Any] | None:
        if self._mode in (AUTO, PACKAGE):
            return {}
        return _settings(self._mode).given()

    @cached_property
    def identity(self) -> str:
        runtime, package = self._engine.runtime, versions()["trimode"]
        parts = (
            runtime.model_sha256, runtime.adapter_sha256, runtime.device, runtime.dtype, runtime.kernels,
            runtime.quantize, package, self._mode,
        )  # fmt: skip
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def prepare(self, call: RecordedCall) -> None:
        """Compiles the call's schema, and prefills the share of its prompt that was in the cache when it was recorded,
        which is what earlier calls of its loop had left there."""
        made = call_of("workload", None, **arguments_of(call, self._engine), cache_scope=self._scope)
        translator = self._engine.translator
        request = translator.request_and_notes(translator.written(made), "oldest", None)[0]
        known = round(call.usage.cached_share * len(request.prompt))
        if known and isinstance(request, DecodeRequest):
            self._engine.tokens.decode(replace(request, prompt=request.prompt[:known], max_tokens=1, constraint=None))

    def answer(self, call: RecordedCall) -> Reply:
        with session(self._engine, policy=self._policy, trim="oldest"), using(step=call.step or None):
            begin = time.perf_counter()
            events = self._engine.stream(**arguments_of(call, self._engine), cache_scope=self._scope)
            result, first = _read(events)
            end = time.perf_counter()
        return Reply(
            answer=answer_in(result),
            times=Times(first=None if first is None else first - begin, last=end - begin),
            usage=Usage(
                input=result.stats.prompt_tokens, cached=result.stats.cached_tokens, output=result.stats.output_tokens,
                passes=result.stats.forward_passes,
            ),
        )  # fmt: skip


def _read(events: Iterable[StreamEvent]) -> tuple[Result, float | None]:
    """Returns the result of a stream, and when its first final text came (`time.perf_counter`)."""
    first: float | None = None
    for event in events:
        if first is None and event.text and not event.provisional:
            first = time.perf_counter()
        if event.result is not None:
            return event.result, first
    raise RequestError("the stream ended without a result")


def arguments_of(call: RecordedCall, engine: Engine) -> dict[str, Any]:
    """Returns the keyword arguments that ask for a recorded call. Raises RequestError for token ids of another
    tokenizer."""
    found: dict[str, Any] = {**call.settings, "tools": list(call.tools) or None}
    if call.prompt_ids is None:
        found["messages"] = joined(call.messages)[0]
    elif call.model == engine.runtime.tokenizer_sha256:
        found["prompt_ids"] = call.prompt_ids
    else:
        raise RequestError("the record holds token ids of another tokenizer, and no messages")
    match call.kind:
        case "turn":
            found |= {"tool_choice": call.choice or "auto", "parallel_tool_calls": call.parallel, "schema": call.schema}
        case "tool_call":
            found["step"] = "tool_call"
        case "json":
            found |= {"step": "json", "schema": {"type": "object"} if call.schema is None else call.schema}
        case _:
            found |= {"step": call.kind, "schema": call.schema}
    return found


def answer_in(result: Result) -> Answer:
    """Returns a result as it is compared with a recorded answer."""
    if result.segments:
        return Answer(result.content or "", tuple(ToolUse(one.name, one.arguments) for one in result.calls))
    if isinstance(result.value, ToolCall):
        return Answer(calls=(ToolUse(result.value.name, result.value.arguments),))
    return Answer(result.answer)


def _policy(engine: Engine, mode: str) -> PolicyProtocol:
    if mode == AUTO:
        return Auto(engine.cost, modes=engine.tokens.model.config.modes)
    if mode == PACKAGE:
        return Policy(name="workload")
    chosen = _settings(mode)
    if chosen.mode not in (known := engine.tokens.model.config.modes):
        raise RunRefused(f"--run {LOCAL}:{mode}: these weights decode in {', '.join(known)} only")
    return Policy(name="workload", kinds=dict.fromkeys(STEP_KINDS, chosen))


def _settings(mode: str) -> Settings:
    found = variant(mode, f"--run {LOCAL}:{mode}")
    return Settings(exact=False).over(found) if found.mode == "diffusion" else found
