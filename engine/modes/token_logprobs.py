"""Log-probabilities of given tokens: the prompt and they are read causally, so they do not depend on who chose them.

Knows token ids and logits. Does not know the model, nor which mode made the tokens. A row of logits is the same to the
bit in any pass, so the figures are those that `ar` reads when it writes these tokens. Rows up to the prompt's last
token come from the prefix cache where they are stored; logits are read in chunks, because a row has the vocabulary's
length.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from torch import Tensor

from ..decoding.segment import Reply, Segment
from ..decoding.state import CacheState

ROWS = 64
"""Rows of logits read in one pass: at 128k tokens of vocabulary 64 MiB in fp64."""

Top = tuple[tuple[int, float], ...]


def score(
    context: CacheState, tokens: Sequence[int], top: int
) -> Generator[Segment, Reply, tuple[tuple[float, ...], tuple[Top, ...]]]:
    """Returns each token's log-probability, in nats, and the `top` likeliest tokens at its place."""
    yield from context.prefill(keep=1)
    logprobs, alternatives = list[float](), list[Top]()
    for at in range(0, len(tokens), ROWS):
        part = tokens[at : at + ROWS]
        logits = (yield context.causal(part[:-1])).trunk
        context.mark_cached(len(context.pending) + len(part) - 1, part[-1:])
        scores = logits.distribution()
        logprobs += scores[range(len(part)), list(part)].tolist()
        alternatives += [likeliest(row, top) for row in scores] if top else [()] * len(part)
    return tuple(logprobs), tuple(alternatives)


def likeliest(scores: Tensor, count: int) -> Top:
    """Returns the best of scores [V] that are not -inf, as pairs of id and score; ties go to the lower id."""
    least = scores.topk(min(count, len(scores))).values[-1]
    ids = (scores >= least).nonzero()[:, 0].tolist()  # every tie of the last one, of which `topk` takes any
    found = sorted(((token, float(scores[token])) for token in ids), key=lambda pair: (-pair[1], pair[0]))
    return tuple(pair for pair in found[:count] if pair[1] != -float("inf"))
