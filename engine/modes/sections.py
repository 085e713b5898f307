"""One output in several sections, each in the mode of its kind: thinking, prose, tool calls.

Knows modes as functions. Does not know what tells sections apart: the gate says where one ends. Exact modes agree on
every token, so among them the choice of modes changes speed only.
"""

from __future__ import annotations

from collections.abc import Callable

from ..decoding.run import DecodeState
from ..decoding.segment import Passes
from ..request import ModeOptions, SectionOptions


def decode(run: DecodeState, options: SectionOptions, modes: Callable[[DecodeState, ModeOptions], Passes]) -> Passes:
    """Runs the mode of each section in turn; `modes` returns a mode's generator."""
    while run.output.finish is None:
        section = run.section = run.output.section = run.gate.section
        run.mode = options.of(section).mode
        if section.number:
            run.output.switch = options.start(section)
        yield from modes(run, options.of(section))
