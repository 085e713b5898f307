"""A draft and its verification as two passes with one wait: the second takes its tokens from the first on the device.

Knows batches and the `then` of their segments. Does not know modes. For requests whose draft the host need not see
before it is verified.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from trimode.kernels.ops import PendingTokens, QueuedKernels, SampledTokens, int64_tensor, to_device

from ..decoding.sampling import Sampler
from ..decoding.segment import Segment
from ..kv_cache.pages import PagePool
from .batch import Batch
from .graphs import DeviceTokens, Graphs
from .runner import Runner

Answer = tuple[Tensor, SampledTokens | None]


def chained(runner: Runner, segments: Sequence[Segment]) -> bool:
    """Returns whether the verification can be queued after this pass: every segment has one, and kernels are `queued`.

    If one segment has none, all requests wait for this pass and continue together in the next one.
    """
    return runner.kernels.queued and all(segment.then is not None for segment in segments)


def cycle(
    segments: Sequence[Segment],
    tables: Sequence[list[int]],
    runner: Runner,
    pool: PagePool,
    samplers: Sequence[Sampler],
    graphs: Graphs | None,
) -> tuple[list[tuple[Answer, Answer]], int]:
    """Runs each segment and its `then`; returns both as `Batch.forward` does, and how many passes were graphs."""
    kernels = cast(QueuedKernels, runner.kernels)
    first = Batch(segments, tables)
    second = Batch([segment.then for segment in segments if segment.then is not None], tables)
    choices = [batch.choices(samplers, True) for batch in (first, second)]
    drafts = first.logits(runner, pool, graphs)
    drafted = first.begin(runner, drafts, [one for one in choices[0] if one], graphs)
    if first.replayed:
        drafts = drafts.clone()  # the second pass may overwrite the same buffers
    checks = second.logits(runner, pool, graphs, _device_tokens(first, second, drafted))
    checked = second.begin(runner, checks, [one for one in choices[1] if one], graphs)
    sampled = kernels.read([drafted, checked])
    mine, following = (
        first.split_by_segment(drafts, choices[0], sampled[0]),
        second.split_by_segment(checks, choices[1], sampled[1]),
    )
    return list(zip(mine, following, strict=True)), first.replayed + second.replayed


def _device_tokens(first: Batch, second: Batch, begun: PendingTokens) -> DeviceTokens:
    """Returns the second pass's open tokens: the last ones of each trunk, from the first sampled of each segment."""
    rows, sampled = list[int](), list[int]()
    end = at = 0
    for segment, reads in zip(second.segments, first.reads, strict=True):
        end += len(segment.trunk)
        rows += range(end - segment.open, end)
        sampled += range(at, at + segment.open)
        at += reads
    where = to_device(torch.stack((int64_tensor(rows), int64_tensor(sampled))), begun.tokens.device)
    return DeviceTokens(where[0], begun.tokens[where[1]])
