"""The options of a recorded call, as a request takes them: of a mode, with its switches, or of each section of a turn.

Knows records and options. Does not know engines or schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from trimode.engine.errors import RequestError
from trimode.engine.models.config import ModelConfig
from trimode.engine.options import (
    AdaptiveOptions,
    ExactOptions,
    InfillOptions,
    ModeOptions,
    Options,
    SectionOptions,
    SingleOptions,
    Switch,
)

from ..audit import CallRecord, RoundRecord
from ..schema import TurnTarget
from ..selection import OPTIONS, Schedule


def options_of(record: CallRecord, config: ModelConfig) -> Options:
    """Returns the options that a recorded call began with, and its switches. Raises RequestError for unknown ones."""
    if record.suffix_ids is not None:
        options: dict[str, Any] = {name: value for name, value in record.options.items() if name != "mode"}
        options["suffix"] = record.suffix_ids
        return InfillOptions(**options)
    first, switches = _of_mode(record.options), switches_of(record)
    if switches and isinstance(first, ExactOptions):
        return AdaptiveOptions(first=first, controller=Schedule(switches=switches))
    return config.fitted(first)


def _of_mode(options: Mapping[str, Any]) -> SingleOptions:
    arguments = {name: value for name, value in options.items() if name != "mode"}
    if options.get("mode") == "diffusion":  # older records lack it; they were decoded by this rule
        arguments.setdefault("selection", "text_first")
    if options.get("mode") == "linear_spec":  # so did drafts
        arguments.setdefault("exact_first", False)
    try:
        return OPTIONS[options["mode"]](**arguments)
    except (KeyError, TypeError):
        raise RequestError(f"options={dict(options)!r}: expected a mode and options that it has") from None


def switches_of(record: CallRecord) -> dict[int, Switch]:
    """Returns the call's switches of mode, by the number of rounds before each; none where their options were not
    recorded. Raises RequestError for options that are not of an exact mode.
    """
    if by_tokens_alone(record):
        return {}
    return {number: _switch(round_) for number, round_ in enumerate(record.rounds) if round_.options is not None}


def _exact(recorded: Mapping[str, Any]) -> ExactOptions:
    options = _of_mode(recorded)
    if not isinstance(options, ExactOptions):
        raise RequestError(
            f"options={dict(recorded)!r}: expected those of an exact mode; only exact modes can be switched to"
        )
    return options


def by_tokens_alone(record: CallRecord) -> bool:
    """Returns whether only tokens can be compared, because the mode switched in mid-call and its options were not
    recorded."""
    return any(round_.switch and round_.options is None for round_ in record.rounds)


def sections_of(record: CallRecord, turn: TurnTarget) -> SectionOptions:
    """Returns the options of a recorded turn: those that each section began with, and its switches."""
    numbers, kinds, reasons = dict[int, ModeOptions](), dict[str, ModeOptions](), dict[str, str]()
    for section, rounds in groupby(record.rounds, key=lambda one: one.section):
        number, kind = section or (0, "")
        first, *others = rounds
        began = _of_mode(record.options if number == 0 else first.options or {})
        switches = {at: _switch(one) for at, one in enumerate(others, start=1) if one.options is not None}
        numbers[number] = began
        if switches and isinstance(began, ExactOptions):
            numbers[number] = AdaptiveOptions(first=began, controller=Schedule(switches=switches))
        kinds.setdefault(kind, began)
        reasons[kind] = reasons.get(kind) or first.switch.removeprefix(f"{kind}: ")
    begins = "thinking" if record.thinking is not None else turn.segment_kinds[0]
    return SectionOptions(first=begins, kinds=kinds, reasons=reasons, numbers=numbers, stops=frozenset({"prose"}))


def _switch(round_: RoundRecord) -> Switch:
    return Switch(options=_exact(round_.options or {}), reason=round_.switch)
