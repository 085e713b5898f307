"""Scoring: the likelihood of each of several whole answers, from one pass that has them as parallel branches.

Knows token ids and log-probabilities. Does not know the model. Each candidate is a causal branch after the prompt, so
candidates see the prompt and not each other, and each gets the score that it would get alone. Many candidates take
several passes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from ..decoding.segment import Branch, Logits, Reply, Segment
from ..decoding.state import CacheState

ROWS = 512
"""Candidate tokens per pass."""

Ids = tuple[int, ...]


def score(
    context: CacheState, candidates: Sequence[Ids], ends: Sequence[int]
) -> Generator[Segment, Reply, tuple[float, ...]]:
    """Returns the log-probability, in nats, of each candidate followed by an end token."""
    yield from context.prefill()
    found: list[float] = []
    for pack in packs(candidates):
        branches = [Branch(tokens=ids, read=len(ids), after=len(context.pending), causal=True) for ids in pack]
        reply = yield context.causal(branches=branches)
        context.mark_cached(len(context.pending) - 1, context.pending[-1:])
        pairs = zip(pack, reply.branches, strict=True)
        found += [_likelihood(reply.trunk, after, ids, ends) for ids, after in pairs]
    return tuple(found)


def packs(candidates: Sequence[Ids]) -> list[list[Ids]]:
    """Splits candidates, in order, into groups of at most ROWS tokens; a longer candidate is a group of its own."""
    groups: list[list[Ids]] = []
    rows = ROWS
    for ids in candidates:
        rows += len(ids)
        if rows > ROWS:
            groups.append([])
            rows = len(ids)
        groups[-1].append(ids)
    return groups


def _likelihood(first: Logits, after: Logits, ids: Ids, ends: Sequence[int]) -> float:
    start = first.logprobs([ids[0]])
    rest = after.logprobs([*ids[1:], *ends], rows=[*range(len(ids) - 1), *[len(ids) - 1] * len(ends)])
    return start.sum().item() + rest[: len(ids) - 1].sum().item() + rest[len(ids) - 1 :].logsumexp(0).item()
