"""Translates a resolved call into a `RemoteRequest`: our own admission first, in words instead of token ids.

Knows calls, schemas and our grammar compiler. Does not know servers, or what they call anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from trimode.engine.errors import RequestError
from trimode.engine.request import Sampling
from trimode.engine.result import Mode

from ...errors import StepError
from ...grammar import GrammarCompiler, grammar_text, relaxed
from ...remote import Constraint, RemoteRequest, Scored, Turning
from ...schema import Choice, Schema, Target, TurnTarget
from ...selection import sampling_of
from ..call import Call
from ..translator import check_stop

_KNOBS: Final = ("block_length", "threshold", "selection", "rows", "min_match", "exact_first")
_ONE_TOOL: Final = "required"


@dataclass(frozen=True, slots=True)
class RemoteWriter:
    """Writes requests; `grammars` compiles their schemas, so that what we refuse here is refused there."""

    grammars: GrammarCompiler

    def request(self, call: Call, streamed: bool) -> RemoteRequest:
        """Returns the request of `call`. Raises RequestError, StepError or SchemaRefused."""
        check_stop(call)
        check_limits(call)
        settings = call.plan.settings
        return RemoteRequest(
            mode=call.plan.mode,
            sampling=sampling_of(settings),
            max_tokens=settings.max_tokens or 0,
            messages=call.messages,
            prompt=call.prompt,
            prompt_ids=call.prompt_ids,
            continued=call.continued,
            tools=call.tools,
            turn=_turning(call),
            constraint=self._constraint(call),
            stop=settings.stop or (),
            thinking=settings.max_thinking_tokens,
            knobs={name: value for name in _KNOBS if (value := getattr(settings, name)) is not None},
            said=frozenset(settings.given()),
            exact=call.plan.exact,
            max_seconds=call.max_seconds,
            step=call.step,
            kind=call.kind,
            streamed=streamed,
        )

    def scoring(self, call: Call, scoring: Sequence[Scored]) -> RemoteRequest:
        """Returns the request that scores instead of writing. Raises RequestError or StepError."""
        check_limits(call)
        return RemoteRequest(
            mode=call.plan.mode,
            sampling=Sampling(),
            max_tokens=0,
            messages=call.messages,
            prompt=call.prompt,
            prompt_ids=call.prompt_ids,
            tools=call.tools,
            step=call.step,
            kind=call.kind,
            scoring=tuple(scoring),
        )

    def _constraint(self, call: Call) -> Constraint | None:
        """Returns what constrains the output; of a turn, its answer. All its schemas are compiled here."""
        checked = call.plan.settings.guarantee == "checked"
        if call.turn is not None:
            if call.turn.calls is not None:
                self._held(call.turn.calls, checked)
            return None if call.turn.answer is None else self._held(call.turn.answer, checked)
        if call.kind == "choice":
            return self._held(Choice(call.candidates), checked)
        return None if call.schema is None else self._held(call.schema, checked)

    def _held(self, target: Target, checked: bool) -> Constraint:
        enforced = relaxed(target).schema if checked else target
        document = self.grammars.document(enforced)
        if isinstance(enforced, Schema):
            return Constraint(form="json", given=enforced.document, compiled=document, checked=checked)
        form: Any = enforced.kind
        return Constraint(form=form, given=enforced.given, compiled=grammar_text(enforced), checked=checked)


def reading(prompt: tuple[int, ...], tokens: tuple[int, ...], top: int, mode: Mode) -> RemoteRequest:
    """Returns the request that scores given tokens after a prompt, in token ids."""
    asked = Scored(tokens=tokens, top=top)
    return RemoteRequest(mode=mode, sampling=Sampling(), max_tokens=0, prompt_ids=prompt, scoring=(asked,))


def _turning(call: Call) -> Turning | None:
    turn = call.turn
    if turn is None:
        return None
    return Turning(choice=_choice(turn, len(call.tools)), parallel=turn.parallel)


def _choice(turn: TurnTarget, tools: int) -> str | dict[str, Any]:
    """Returns the choice as OpenAI's API has it; the name of the tool where one of several has to be called."""
    named = [] if turn.calls is None else [tool.shape.name for tool in turn.calls.tools]
    if turn.choice == "required" and not turn.parallel and len(named) == 1 < tools:
        return {"type": "function", "function": {"name": named[0]}}
    return turn.choice


def check_limits(call: Call) -> None:
    """Raises RequestError or StepError for limits and prompts that no server takes."""
    if call.max_passes is not None:
        raise RequestError(
            "Budget(passes=...): servers do not report forward passes for each call; limit tokens or seconds instead"
        )
    if call.prompt is None and call.prompt_ids is None and not call.messages:
        raise StepError(f"step {call.step!r} has no prompt")
    if call.prompt is not None and call.tools and call.turn is not None:
        raise RequestError("a turn with tools needs messages=: a raw prompt has no template that shows tools")
