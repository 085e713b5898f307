"""An `Ask` as one resolved call of the engine, in the scope of who asks.

Knows asks, the options of a call, policies by name. Does not know HTTP, queues or events.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, cast

from opentelemetry.trace import INVALID_SPAN_CONTEXT, get_current_span

from trimode.policy.calls import SCOPE, Call, Engine, Scope, call_of
from trimode.policy.selection import DecodePlan, Layer, PolicyProtocol, StepContext

from ..refusals import BadParameter
from .ask import Ask
from .seams import check_logprobs, options_of

_SEEDS: Final = 1 << 64
_INFILL: Final = frozenset(("max_tokens", "threshold", "temperature", "seed"))
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "mode": ("diffusion",),
    "exact": (False,),
    "top_p": (1,),
    "top_k": (0,),
}
"""Options that an infill has not, with the values that ask for what it does anyway."""
Policies = Mapping[str, tuple[PolicyProtocol, ...]]
"""Policies that requests may name; "default" is the server's own."""


@dataclass(frozen=True, slots=True)
class CallMaker:
    """Makes calls for one engine. `scope`: audit file and content rule of all calls."""

    engine: Engine
    policies: Policies
    scope: Scope
    tenant_cache: bool = False

    @contextmanager
    def inside(self, ask: Ask, choice: int = 0) -> Generator[None]:
        """Runs a block in the scope of the caller: session, policies, and the parent of its spans. `choice`: the number
        of the request's output, by which records of replicas are told apart."""
        served = ask.caller.served
        scope = replace(
            self.scope,
            session=ask.caller.session,
            policies=self._policies(ask.policy.policy),
            span=ask.caller.trace,
            outside=get_current_span().get_span_context() if ask.caller.trace is not None else INVALID_SPAN_CONTEXT,
            engine=self.engine,
            limits=None,
            served=None if served is None else replace(served, choice=choice),
        )
        entered = SCOPE.enter(scope)
        try:
            yield
        finally:
            SCOPE.leave(entered)

    def calls(self, ask: Ask) -> list[Call]:
        """Returns the calls of the ask's outputs. Raises what the engine's `generate` raises before it decodes."""
        check_logprobs(ask, self.engine)
        with self.inside(ask):
            return [self._call(ask, index) for index in range(ask.n)]

    def _call(self, ask: Ask, index: int) -> Call:
        own = options_of(ask, self.tenant_cache)
        options = {**ask.settings, **ask.policy.settings, **own, **_content(ask)}
        if ask.suffix is not None:
            options |= {**infill_options(ask), "mode": "diffusion", "exact": False}
        if index:
            options["seed"] = (options.get("seed", 0) + index) % _SEEDS
        name, notes = ask.policy.step or "agenerate", list(ask.notes)
        if ask.messages is not None:
            options["messages"], dropped = self._without_names(ask.messages)
            notes += dropped
        if options.get("stop") and ask.tools and (ask.choice == "required" or ask.named is not None):
            del options["stop"]
            notes.append("stop: no text can be stopped in this turn, because tool_choice asks for calls alone")

        def planned(context: StepContext, given: Sequence[Layer]) -> DecodePlan:
            return self.engine.planned(replace(context, name=name), given)

        made = partial(call_of, "astream" if ask.stream else "agenerate", ask.prompt, planned)
        call = made(**cast(Any, options))
        if ask.fits and (left := self._left(call)) is not None:
            notes.append(f"max_tokens={options['max_tokens']} was lowered to {left}, which the context leaves")
            call = made(**cast(Any, {**options, "max_tokens": left}))
        return replace(call, step=name, notes=(*call.notes, *notes))

    def _left(self, call: Call) -> int | None:
        """Returns the number of output tokens that the context leaves; None where what is asked for fits, or nothing
        does."""
        left = self.engine.context - len(self.engine.encode(call))
        return left if 0 < left < (call.plan.settings.max_tokens or 0) else None

    def _without_names(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str]]:
        """Returns the messages without authors' names that the chat template has no place for, and a note for each."""
        kept, notes = list[Mapping[str, Any]](), list[str]()
        for at, message in enumerate(messages):
            if "name" in message and message["role"] != "tool" and not self._shows_name(message["role"]):
                notes.append(f"messages[{at}].name is not shown to the model: its chat template has no place for it")
                message = {key: value for key, value in message.items() if key != "name"}
            kept.append(message)
        return kept, notes

    def _shows_name(self, role: str) -> bool:
        tokenizer = self.engine.tokenizer
        if not tokenizer.has_template:
            return False
        return tokenizer.template.names("name") and tokenizer.template.shows_key(role, "name")

    def needs_auto(self, call: Call) -> bool:
        """Whether the call looks at the policy "auto", which measures the machine when it is first used."""
        return call.plan.settings.deadline is not None

    def _policies(self, name: str | None) -> tuple[PolicyProtocol, ...]:
        try:
            return self.policies[name or "default"]
        except KeyError:
            raise BadParameter(
                f"trimode.policy: {name!r} is none of this server's: {', '.join(self.policies)}", "trimode.policy"
            ) from None


def infill_options(ask: Ask) -> dict[str, Any]:
    """Returns the options of an infill. Raises BadParameter for those that an infill has not."""
    given = {**ask.settings, **ask.policy.settings}
    for name in given.keys() - _INFILL:
        if given[name] not in _NEUTRAL.get(name, ()):
            raise BadParameter(f"{name} has no part beside suffix; leave one of them out", name)
    if ask.schema is not None:
        raise BadParameter("response_format has no part beside suffix; leave one of them out", "response_format")
    return {name: given[name] for name in given.keys() & _INFILL - {"seed"}}


def _content(ask: Ask) -> dict[str, Any]:
    """Returns the options that say what is asked, not how it is decoded.

    With tools, or to think, the output is a turn; a request that names another kind of step gets that.
    """
    kind = ask.policy.kind
    found: dict[str, Any] = {
        "messages": ask.messages,
        "prompt_ids": ask.prompt_ids,
        "tools": ask.tools or None,
        "schema": ask.schema,
        "step": kind,
    }
    if kind in (None, "turn") and (
        ask.tools or kind or "max_thinking_tokens" in {**ask.settings, **ask.policy.settings}
    ):
        found |= {"tool_choice": _choice(ask), "parallel_tool_calls": ask.parallel}
    elif kind == "tool_call" and ask.tools and ask.choice == "none":
        raise BadParameter("trimode.kind: a step of kind tool_call is one call, and tool_choice='none'", "trimode.kind")
    elif kind == "tool_call" and ask.named is not None:
        found["schema"] = [tool for tool in ask.tools if tool["function"]["name"] == ask.named]
    elif kind != "tool_call" and ask.choice == "required":
        raise BadParameter(
            f"trimode.kind: a step of kind {kind} makes no calls, and tool_choice asks for one", "trimode.kind"
        )
    return {name: value for name, value in found.items() if value is not None}


def _choice(ask: Ask) -> Any:
    """Returns the choice of tools as the engine takes it: a name stands in a document, because a tool may be called
    "auto"."""
    if ask.named is None:
        return ask.choice
    return {"type": "function", "function": {"name": ask.named}}
