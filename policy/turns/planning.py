"""The plan of a turn: one for each kind of its segments, and the engine's options that follow from them.

Knows plans and what a turn may hold. Does not know tokens, or how segments are told apart in the output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from trimode.engine.options import ModeOptions, SectionOptions

from ..schema import SegmentKind, TurnTarget
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
