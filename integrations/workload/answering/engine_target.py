"""An engine as a target: each call streamed in a session of its own, as an agent would make it.

Knows the public engine and recorded calls. Does not know where the engine decodes, or scores.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from trimode.engine.errors import RequestError
from trimode.policy.calls import Engine, Result, StreamEvent
from trimode.policy.schema import ToolCall
from trimode.policy.selection import STEP_KINDS, Policy, PolicyProtocol, Settings, variant
from trimode.policy.steps import session, using

from ...server.wire.conversation import joined
from ..calls import Answer, RecordedCall, Times, ToolUse, Usage
from ..refusals import RunRefused
from .targets import Reply

AUTO: Final = "auto"
PACKAGE: Final = "default"
"""Mode that stands for the package's own table."""


class EngineTarget:
    """An engine under a policy. `scope`: prefixes of prompts are cached apart from those of other targets."""

    def __init__(self, name: str, engine: Engine, policy: PolicyProtocol, scope: str | None = None) -> None:
        self.name: str = name
        self.engine: str = name.partition(":")[0]
        self._engine, self._policy, self._scope = engine, policy, scope

    @property
    def settings(self) -> Mapping[str, Any] | None:
        return None

    def prepare(self, call: RecordedCall) -> None:
        """Does nothing; a subclass does what is done once for many calls."""

    def answer(self, call: RecordedCall) -> Reply:
        with session(self._engine, policy=self._policy, trim="oldest"), using(step=call.step or None):
            begin = time.perf_counter()
            result, first = _read(self._engine.stream(**self.arguments(call)))
            end = time.perf_counter()
        return Reply(
            answer=answer_in(result),
            times=Times(first=None if first is None else first - begin, last=end - begin),
            usage=usage_in(result),
        )

    def arguments(self, call: RecordedCall) -> dict[str, Any]:
        """Returns the keyword arguments of the call. Raises RequestError where it cannot be asked here."""
        return {**_prompt(call, self._engine), **arguments_of(call), "cache_scope": self._scope}


def _read(events: Iterable[StreamEvent]) -> tuple[Result, float | None]:
    """Returns the result of a stream, and when its first final text came (`time.perf_counter`)."""
    first: float | None = None
    for event in events:
        if first is None and (event.text or event.call is not None) and not event.provisional:
            first = time.perf_counter()
        if event.result is not None:
            return event.result, first
    raise RequestError("the stream ended without a result")


def _prompt(call: RecordedCall, engine: Engine) -> dict[str, Any]:
    if call.prompt_ids is None:
        return {"messages": joined(call.messages)[0]}
    if call.model != engine.runtime.tokenizer_sha256:
        raise RequestError("the record holds token ids of another tokenizer, and no messages")
    return {"prompt_ids": call.prompt_ids}


def arguments_of(call: RecordedCall) -> dict[str, Any]:
    """Returns the arguments of a call besides its prompt."""
    found: dict[str, Any] = {**call.settings, "tools": list(call.tools) or None}
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


def usage_in(result: Result) -> Usage:
    """Returns the counts of a result; a server's, where it gave them."""
    stats = result.stats
    return Usage(
        input=getattr(stats, "prompt_tokens", None),
        cached=getattr(stats, "cached_tokens", None),
        output=getattr(stats, "output_tokens", None),
        passes=getattr(stats, "forward_passes", None),
    )


def settings_of(mode: str, origin: str) -> Settings:
    """Returns the settings of a mode as `trimode bench` names it, such as `linear_spec:8`. Raises PolicyError."""
    found = variant(mode, origin)
    return Settings(exact=False).over(found) if found.mode == "diffusion" else found


def policy_of(mode: str, known: Collection[str], origin: str) -> PolicyProtocol:
    """Returns the policy that decodes everything in one mode; that of the package for PACKAGE. Raises RunRefused for a
    mode that is not `known`."""
    if mode == PACKAGE:
        return Policy(name="workload")
    chosen = settings_of(mode, origin)
    if chosen.mode not in known:
        raise RunRefused(f"{origin}: this engine decodes in {', '.join(known)} only")
    return Policy(name="workload", kinds=dict.fromkeys(STEP_KINDS, chosen))
