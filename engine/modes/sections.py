"""One output in several sections, each in the mode of its kind: thinking, prose, tool calls.

Knows modes as functions. Does not know what tells sections apart: the gate says where one ends. Exact modes agree on
every token, so among them the choice of modes changes speed only.
"""

from __future__ import annotations

from collections.abc import Callable

from ..decoding.output import Output
from ..decoding.run import DecodeState
from ..decoding.segment import Passes
from ..options import ModeOptions, SectionOptions
from ..result import Mode, Section


def decode(run: DecodeState, options: SectionOptions, modes: Callable[[DecodeState, ModeOptions], Passes]) -> Passes:
    """Runs the mode of each section in turn; `modes` returns a mode's generator."""
    while run.output.finish is None:
        run.section = run.gate.section
        run.mode = enter(run.output, run.section, options)
        yield from modes(run, options.of(run.section))


def enter(output: Output, section: Section, options: SectionOptions) -> Mode:
    """Begins a section of `output`, with the reason for its mode unless it is the first one, and returns its mode."""
    output.enter(section, stops=section.kind in options.stops)
    if section.number:
        output.switch = options.start(section)
    return options.of(section).mode
