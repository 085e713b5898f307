"""Linear self-speculation (nld.md §4c): draft a block in one bidirectional pass, verify it in one causal pass."""

from __future__ import annotations

from ..request import LinearSpecOptions
from ..run import Run
from ..segment import Passes
from ..speculation import propose, verify


def decode(run: Run, options: LinearSpecOptions) -> Passes:
    if not run.prefilled:
        yield from run.next_token()
    while run.goes_on():
        forced = run.force()
        if forced is None:
            return
        room, slots = run.output.room - len(forced), options.block_length - len(run.pending)
        if room == 1 or slots < 1:
            yield from run.next_token(forced)
            continue
        guess = yield run.block([None] * slots, adapter=run.adapter)
        draft = propose(run.gate.fork(), guess.branches[0], limit=room - 1)
        check = yield run.causal(draft.checked)
        verify(run, draft, check.trunk, forced, passes=2)
