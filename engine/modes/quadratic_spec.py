"""Quadratic self-speculation (nld.md §4d): one pass verifies a draft and prepares the next one for every outcome.

Knows one request. Does not know the model. The trunk is the draft after the pending tokens. At each acceptance point,
the place of the first rejected token, there is a branch of slots that sees the trunk up to there; after verification
the branch of the actual point is the next draft. The token at that point is not read from it, because the causal row
has just decided it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import mul

from ..decoding.run import DecodeState
from ..decoding.segment import Branch, Logits, Passes
from ..decoding.speculation import Draft, propose, verify
from ..drafting import QUADRATIC_BLOCK
from ..options import QuadraticSpecOptions


def decode(run: DecodeState, options: QuadraticSpecOptions) -> Passes:
    next_draft: Logits | None = None  # what the last pass drafted after the token that it chose
    length = run.drafting.block_length(options.block_length, QUADRATIC_BLOCK)
    while run.continues():
        forced = run.force()
        if forced is None:
            return
        between = yield from run.prefill()
        next_draft = None if between else next_draft  # a pass in between overwrote its logits
        passes = between + run.prefilled
        remaining = run.output.remaining - len(forced)
        logits = next_draft and next_draft.after(len(forced))
        draft = propose(run.gate, logits, limit=remaining - 1, section=run.section)
        points = acceptance_points(draft, options.rows, remaining)
        reply = yield run.causal(draft.to_verify, fan(run, points, length), constrained=run.gate.constrains)
        accepted = verify(run, draft, reply.trunk, forced, passes)
        next_draft = dict(zip(points, reply.branches, strict=True)).get(accepted)


def fan(run: DecodeState, points: Sequence[int], length: int) -> list[Branch]:
    """Returns the branch of a draft for each number of accepted draft tokens in `points`."""
    return [run.draft_after(len(run.pending) + accepted, length) for accepted in points]


def acceptance_points(draft: Draft, rows: int | None, remaining: int) -> list[int]:
    """Returns numbers of accepted draft tokens to prepare for: the `rows` likeliest, always including the whole draft.

    Impossible points are left out (a forced token is never rejected), and those after which no draft fits.
    """
    whole = len(draft.to_verify)
    possible = [at for at in range(whole) if draft.origins[at] != "f"]
    reached = [1.0, *accumulate(draft.confidence, mul)]
    likely = sorted(possible, key=lambda at: reached[at] * (1 - draft.confidence[at]), reverse=True)
    kept = likely if rows is None else likely[: rows - 1]
    return sorted(at for at in [*kept, whole] if at <= remaining - 3)
