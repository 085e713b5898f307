"""Infilling: tokens between a prompt and a suffix, by block diffusion with a fixed right-hand side (nld.md §4b).

Knows one request. Does not know the model. The last prompt token, masks and the suffix form one block. The number of
tokens is chosen first: one pass has a branch for each length, and the length whose masked slots are most confident on
average is taken. Not exact.
"""

from __future__ import annotations

from collections.abc import Generator
from math import log

import torch

from ..decoding.run import DecodeState
from ..decoding.segment import Branch, Logits, Passes, Reply, SampledTokens, Segment
from ..options import InfillOptions
from ..token_mask import all_but
from .diffusion import most_confident


def decode(run: DecodeState, options: InfillOptions) -> Passes:
    yield from run.prefill(keep=1)
    run.prefilled = True
    slots: list[int | None] = [None] * (yield from best_length(run, options))
    fills = [0]  # the pass that measured the lengths
    while None in slots:
        reply = yield run.block(slots, options.suffix)
        sampled = choose(run, reply.branches[0], len(slots))
        masked = [at for at, slot in enumerate(slots) if slot is None]
        fresh = most_confident(masked, sampled.confidence, options.threshold, masked)
        slots = [sampled.tokens[at] if at in fresh else slot for at, slot in enumerate(slots)]
        fills.append(len(fresh))
        run.tentative = tuple(slots)
    run.tentative = ()
    tokens = [slot for slot in slots if slot is not None]
    run.output.commit(run.mode, tokens, "a" * len(tokens), drafted=len(tokens), forward_passes=len(fills), fills=fills)
    run.output.finish = "stop"


def best_length(run: DecodeState, options: InfillOptions) -> Generator[Segment, Reply, int]:
    """Returns the number of tokens, up to the budget, whose slots are most confident when all are masked."""
    branches = []
    for length in range(1, run.output.max_tokens + 1):
        tokens = (*run.pending, *(run.mask_id,) * length, *options.suffix)
        branches.append(Branch(tokens=tokens, read=length + len(options.suffix)))
    reply = yield Segment(start=run.cached, branches=tuple(branches))
    scores = []
    for length, logits in enumerate(reply.branches, start=1):
        confidence = choose(run, logits, length).confidence
        scores.append(sum(log(max(value, 1e-30)) for value in confidence) / length)
    return 1 + scores.index(max(scores))


def choose(run: DecodeState, logits: Logits, slots: int) -> SampledTokens:
    """Returns the best token of each slot that is not an end token."""
    no_ends = torch.from_numpy(all_but(run.output.ends, run.gate.mask_words))
    return logits.sample_masked(no_ends, range(slots))
