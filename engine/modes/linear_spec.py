"""Linear self-speculation (nld.md §4c): drafts a block in one pass, verifies it in one causal pass.

Two layouts. With `exact_first` the pending tokens are the trunk of the drafting pass, so that their last row decides
the next token as `ar` does, and the slots are a branch after it: a cycle of two passes commits two tokens at least, and
the draft begins one token later. Otherwise pending tokens and slots are one block, as Nemotron-Labs-Diffusion drafts.
"""

from __future__ import annotations

from ..decoding.run import DecodeState
from ..decoding.segment import Passes, Reply
from ..decoding.speculation import propose, verify
from ..drafting import LINEAR_BLOCK
from ..options import LinearSpecOptions


def decode(run: DecodeState, options: LinearSpecOptions) -> Passes:
    length = run.drafting.block_length(options.block_length, LINEAR_BLOCK)
    exact_first = run.drafting.exact_first if options.exact_first is None else options.exact_first
    return _decided_first(run, length) if exact_first else _one_block(run, length)


def _one_block(run: DecodeState, length: int) -> Passes:
    if not run.prefilled:
        yield from run.next_token()
    while run.continues():
        forced = run.force()
        if forced is None:
            return
        remaining, slots = run.output.remaining - len(forced), length - len(run.pending)
        if remaining == 1 or slots < 1:
            yield from run.next_token(forced)
            continue
        # An unconstrained draft is verified as it is, so its verification may be queued before the host has seen it.
        verifiable = 0 if run.gate.constrains else min(slots, remaining - 1)
        reply = yield run.draft_block(slots, verify=verifiable)
        draft = propose(run.gate, reply.branches[0], limit=remaining - 1, section=run.section)
        if reply.then is not None:
            logits = reply.then.trunk.upto(len(draft.to_verify) + 1)
        else:
            logits = (yield run.causal(draft.to_verify, constrained=run.gate.constrains)).trunk
        verify(run, draft, logits, forced, passes=2)


def _decided_first(run: DecodeState, length: int) -> Passes:
    while run.continues():
        forced = run.force()
        if forced is None:
            return
        remaining = run.output.remaining - len(forced)
        if remaining <= 2:  # a draft needs a token before it and one after it
            yield from run.next_token(forced)
            continue
        passes = (yield from run.prefill()) + run.prefilled
        verifiable = 0 if run.gate.constrains else min(length - 1, remaining - 2)
        reply = yield run.draft_and_decide(length, run.gate.constrains, verifiable)
        yield from _verified(run, reply, forced, passes)


def _verified(run: DecodeState, reply: Reply, forced: list[int], passes: int) -> Passes:
    """Takes the token that the drafting pass decided and what the gate forces after it; verifies the draft of the rest.

    `forced`: taken before that token.
    """
    best = reply.trunk.sample_gated(run.gate).tokens[0]
    token = run.gate.resolve(best)
    run.gate.advance([token])
    run.mark_cached(len(run.pending), [token])
    taken, origins = [*forced, token], "f" * len(forced) + ("c" if token == best else "b")
    remaining = run.output.remaining - len(taken)
    after = [] if token in run.output.ends or not run.in_section else run.gate.take_forced(remaining, run.section)
    run.pending += after
    taken, origins, remaining = taken + after, origins + "f" * len(after), remaining - len(after)
    if taken[-1] in run.output.ends or not remaining or not run.in_section:
        run.output.commit(run.mode, taken, origins, forward_passes=passes)
        return
    draft = propose(run.gate, reply.branches[0].after(len(after)), limit=remaining - 1, section=run.section)
    if reply.then is not None:
        logits = reply.then.trunk.upto(len(draft.to_verify) + 1)
    else:
        logits = (yield run.causal(draft.to_verify, constrained=run.gate.constrains)).trunk
    verify(run, draft, logits, taken, passes + 1, origins)
