"""Linear self-speculation (nld.md §4c): drafts a block in one bidirectional pass, verifies it in one causal pass."""

from __future__ import annotations

from ..decoding.run import DecodeState
from ..decoding.segment import Passes
from ..decoding.speculation import propose, verify
from ..request import LinearSpecOptions


def decode(run: DecodeState, options: LinearSpecOptions) -> Passes:
    if not run.prefilled:
        yield from run.next_token()
    while run.continues():
        forced = run.force()
        if forced is None:
            return
        remaining, slots = run.output.remaining - len(forced), options.block_length - len(run.pending)
        if remaining == 1 or slots < 1:
            yield from run.next_token(forced)
            continue
        # An unconstrained draft is verified as it is, so its verification may be queued before the host has seen it.
        verifiable = 0 if run.gate.constrains else min(slots, remaining - 1)
        reply = yield run.block([None] * slots, adapter=run.adapter, verify=verifiable)
        draft = propose(run.gate, reply.branches[0], limit=remaining - 1, section=run.section)
        if reply.then is not None:
            logits = reply.then.trunk.upto(len(draft.to_verify) + 1)
        else:
            logits = (yield run.causal(draft.to_verify, constrained=run.gate.constrains)).trunk
        verify(run, draft, logits, forced, passes=2)
