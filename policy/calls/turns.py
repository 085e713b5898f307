"""Calls of kind `turn`: the plan of each of their segments, and how their calls are written by one chat template.

Knows plans, schemas and tokenizers. Does not know engines, or how segments are told apart in the output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from trimode.engine.models.tokenizer import Tokenizer
from trimode.engine.request import ModeOptions, SectionOptions

from ..grammar import GrammarCompiler, Marker, TurnGrammar, TurnMatcher
from ..schema import BARE, MARKED, CallFormat, SegmentKind, TurnTarget
from ..selection import DecodePlan, StepContext

Segments = Mapping[SegmentKind, DecodePlan]
"""The plan of each kind of segment that a turn may have, that of the first segment first."""


def planned_turn(
    context: StepContext, target: TurnTarget, plan_of: Callable[[StepContext], DecodePlan]
) -> tuple[DecodePlan, Segments]:
    """Returns the plan of a turn, and that of each kind of its segments.

    A segment's mode comes from its own kind; everything else, such as the temperature, from the turn.
    """
    whole = plan_of(context)
    thinks = whole.settings.max_thinking_tokens is not None
    kinds: tuple[SegmentKind, ...] = (*(("thinking",) if thinks else ()), *target.segment_kinds)
    parts = {"tool_call": target.calls, "json": target.answer}
    segments: dict[SegmentKind, DecodePlan] = {}
    for kind in kinds:
        part = parts.get(kind)
        segments[kind] = plan_of(replace(context, kind=kind, schema_sha256=None if part is None else part.sha256))
    first = segments[kinds[0]]
    return (
        replace(
            whole,
            mode=first.mode,
            settings=replace(whole.settings, mode=first.mode),
            reason="; ".join(f"{kind}: {plan.reason}" for kind, plan in segments.items()),
            exact=all(plan.exact for plan in segments.values()),
            notes=tuple(dict.fromkeys(note for plan in segments.values() for note in plan.notes)),
        ),
        segments,
    )


def section_options(segments: Segments, options_of: Callable[[DecodePlan], ModeOptions]) -> SectionOptions:
    """Returns the options of a turn's request."""
    return SectionOptions(
        first=next(iter(segments)),
        kinds={kind: options_of(plan) for kind, plan in segments.items()},
        reasons={kind: plan.reason for kind, plan in segments.items()},
        stops=frozenset({"prose"}),
    )


def call_format(tokenizer: Tokenizer, target: TurnTarget) -> CallFormat:
    """Returns how calls are written in a turn: as the chat template writes them, else after a marker.

    For a template that knows kinds of messages a turn that has to be calls is a message of kind tool_call: one call.
    """
    if not tokenizer.has_template:
        return MARKED
    if tokenizer.template.names("kind"):
        return BARE if target.choice == "required" else MARKED
    frame = tokenizer.template.call_frame
    if frame is None or "{" in "".join(frame) or not frame[0].strip():
        return MARKED
    head, between, tail = frame
    return CallFormat(head.lstrip(), between, tail)


def marker_of(tokenizer: Tokenizer, form: CallFormat) -> Marker:
    """Returns what opens a call in running text: the control marker that the head begins with, else all of the head."""
    control = [marker for marker in tokenizer.markers if form.head.startswith(marker)]
    text = max(control, key=len, default=form.head.strip())
    return Marker(text, tokenizer.marker(text))


def turn_matcher(tokenizer: Tokenizer, grammars: GrammarCompiler, target: TurnTarget) -> TurnMatcher:
    """Returns a fresh matcher at the start of a turn. Raises SchemaRefused, with pointer, keyword and hint."""
    parts = [None if part is None else grammars.matcher(part) for part in (target.calls, target.answer)]
    calls, answer = parts
    marker = marker_of(tokenizer, target.format)
    return TurnMatcher(TurnGrammar(target, grammars.vocabulary, calls, answer, marker, tokenizer.encode_markup))
