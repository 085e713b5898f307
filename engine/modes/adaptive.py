"""Several exact modes in turn inside one call: a controller may switch to another one at the end of a round.

Knows modes as functions. Does not know why a controller decides. Only speed changes, because exact modes agree on every
token.
"""

from __future__ import annotations

from collections.abc import Callable

from ..decoding.run import DecodeState
from ..decoding.segment import Passes
from ..options import AdaptiveOptions, ExactOptions, Switch


def decode(run: DecodeState, options: AdaptiveOptions, modes: Callable[[DecodeState, ExactOptions], Passes]) -> Passes:
    """Runs exact modes by turns; `modes` returns an exact mode's generator.

    The controller is asked between rounds only.
    """
    switch: Switch | None = None
    current, begin = options.first, len(run.output.rounds)

    def should_switch() -> bool:
        nonlocal switch
        rounds = run.output.rounds[begin:]
        switch = options.controller(rounds, current) if rounds and run.output.switch is None else None
        return switch is not None

    run.should_switch = should_switch
    while run.in_section:
        yield from modes(run, current)
        if switch is not None:
            current, run.output.switch, switch = switch.options, switch, None
            run.mode = current.mode
    run.should_switch = None
