"""The joint objective of nld.md §6: one forward over [clean | noisy], loss = AR + alpha * diffusion / p.

Knows windows and blocks. The noisy half is not the whole window again but a list of blocks cut where decoding cuts
them: each starts on a token of the model's own (the seed, kept) and is masked after it, so prompts cost nothing and
block starts fall anywhere. Half of the blocks are wholly masked, as a draft sees them; the rest at a random rate p.
Rows of a block see the clean tokens before its seed and each other. Shapes: B windows, L clean, N noisy slots.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from trimode.engine.models.model import Attend, Transformer

from .data import Window
from .recipe import Noise
from .tokenizer import EOS

MIN_RATE = 0.1
ENDS = 0.25
"""Share of the slots behind an end that carry loss: they are many and soon learned."""


@dataclass(frozen=True, slots=True)
class Batch:
    """tokens and positions [B, L + N]; weight [B, L + N] of each row's loss; target [B, L + N].

    Of each noisy slot, start [B, N]: the clean tokens its block sees; first [B, N]: the slot that its block begins at.
    """

    tokens: Tensor
    positions: Tensor
    target: Tensor
    weight: Tensor
    start: Tensor
    first: Tensor
    clean: int


def block_starts(own: npt.NDArray[np.bool_], block: int, rng: random.Random) -> list[tuple[int, int]]:
    """(seed position, end of the run) of blocks over every own run; like cycles, they overlap by a random amount."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], own.view(np.int8), [0]))))
    starts = []
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        at = begin
        while at < end - 1:
            starts.append((at, end))
            at += rng.randint(block // 4, block)
    return starts


def make_batch(windows: list[Window], noise: Noise, mask_id: int, rng: random.Random, drafts: bool = False) -> Batch:
    """A batch of AR rows (clean half) and diffusion rows (noisy half).

    With `drafts` every block is wholly masked behind what is known, and ends with its run.
    """
    length, slots = len(windows[0].ids), noise.regions * noise.block
    size = (len(windows), length + slots)
    tokens, positions = np.full(size, mask_id, np.int64), np.zeros(size, np.int64)
    target, weight = np.zeros(size, np.int64), np.zeros(size, np.float32)
    start = np.zeros((len(windows), slots), np.int64)
    first = np.tile(np.arange(slots), (len(windows), 1))  # a slot that no block takes is alone
    for row, window in enumerate(windows):
        ids, own = window.ids.astype(np.int64), window.own
        tokens[row, :length], positions[row, :length] = ids, np.arange(length)
        target[row, : length - 1], weight[row, : length - 1] = ids[1:], own[1:]
        for slot, width, at, end in blocks(own, noise, rng):
            here = slice(length + slot, length + slot + width)
            start[row, slot : slot + width], first[row, slot : slot + width] = at, slot
            positions[row, here] = np.arange(at, at + width)
            noisy = _noisy(ids[at:end], width, noise, rng, drafts)
            tokens[row, here] = np.where(noisy.hidden, mask_id, noisy.answer)
            target[row, here], weight[row, here] = noisy.answer, noisy.weight
    return Batch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(positions),
        target=torch.from_numpy(target),
        weight=torch.from_numpy(weight),
        start=torch.from_numpy(start),
        first=torch.from_numpy(first),
        clean=length,
    )


def blocks(own: npt.NDArray[np.bool_], noise: Noise, rng: random.Random) -> Iterator[tuple[int, int, int, int]]:
    """(first slot, width, seed position, end of the run) of the blocks that fill a window's noisy half."""
    places = []
    for region in range(noise.regions):
        width = _one_of(noise.widths, rng)
        places += [(slot, width) for slot in range(region * noise.block, (region + 1) * noise.block, width)]
    starts = block_starts(own, min(noise.widths), rng)
    for place, run in zip(places, rng.sample(starts, min(len(places), len(starts))), strict=False):
        yield *place, *run


def _one_of(options: tuple[int, ...], rng: random.Random) -> int:
    """At random; where there is no choice nothing is drawn."""
    return options[0] if len(options) == 1 else rng.choice(options)


@dataclass(frozen=True, slots=True)
class Noisy:
    """One block: its tokens, which of them are masked, and the weight of each one's loss. [width] each."""

    answer: npt.NDArray[np.int64]
    hidden: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float32]


def _noisy(ids: npt.NDArray[np.int64], width: int, noise: Noise, rng: random.Random, drafts: bool) -> Noisy:
    """A block over `ids`, the rest of a run from the seed on, with what it knows at its front left in sight."""
    run = min(width, len(ids))
    known = _one_of(noise.known, rng)
    rate = 1.0 if drafts or rng.random() < 0.5 else rng.uniform(MIN_RATE, 1.0)
    hides = ([False] * known + [rng.random() < rate for _ in range(run - known)])[:run]
    counts = list(hides)
    behind = width - run
    if noise.ends and run == len(ids) and ids[-1] == EOS and not drafts:
        hides += [rng.random() < rate for _ in range(behind)]
        counts += [hide and rng.random() < ENDS for hide in hides[run:]]
    else:
        hides, counts = hides + [True] * behind, counts + [False] * behind
    answer = np.concatenate((ids[:run], np.full(behind, EOS)))
    return Noisy(answer, np.asarray(hides, np.bool_), np.asarray(counts, np.float32) / rate)


def noisy_mask(batch: Batch) -> Tensor:
    """[B, 1, N, L + N] bool: clean keys before the block's seed, and all keys of the own block."""
    clean = torch.arange(batch.clean) < batch.start[:, :, None]
    own = batch.first[:, :, None] == batch.first[:, None]
    return torch.cat((clean, own), dim=2)[:, None]


def attention(batch: Batch, groups: int) -> Attend:
    """The `attend` of one training pass: causal among clean rows, `noisy_mask` for noisy ones."""
    rows, total = batch.tokens.shape
    mask = noisy_mask(batch) if total > batch.clean else None

    def attend(_layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.unflatten(0, (rows, total)).transpose(1, 2) for x in (q, k, v))
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        c = batch.clean
        out = F.scaled_dot_product_attention(q[:, :, :c], k[:, :, :c], v[:, :, :c], is_causal=True)
        if mask is not None:
            out = torch.cat((out, F.scaled_dot_product_attention(q[:, :, c:], k, v, attn_mask=mask)), dim=2)
        return out.transpose(1, 2).flatten(0, 1)

    return attend


@dataclass(frozen=True, slots=True)
class Losses:
    """`total` for the optimiser; per-token means in nats and token counts for people."""

    total: Tensor
    ar: float
    diffusion: float
    tokens: int
    own: int


def losses(forward: Callable[..., Tensor], model: Transformer, batch: Batch, alpha: float) -> Losses:
    """The weighted cross-entropy over the batch's loss rows, divided by one global token count (nld.md §6.5).

    `forward` is `model` or its compiled twin.
    """
    groups = model.config.num_attention_heads // model.config.num_key_value_heads
    hidden = forward(batch.tokens.flatten(), batch.positions.flatten(), attention(batch, groups))
    weight = batch.weight.flatten()
    rows = weight.nonzero().squeeze(1)
    ce = F.cross_entropy(model.head(hidden[rows]).float(), batch.target.flatten()[rows], reduction="none")
    noisy = (rows % batch.tokens.shape[1]) >= batch.clean
    weighted = ce * weight[rows]
    total = (weighted[~noisy].sum() + alpha * weighted[noisy].sum()) / rows.numel()
    return Losses(total, _mean(ce[~noisy]), _mean(ce[noisy]), batch.tokens.numel(), rows.numel())


def _mean(x: Tensor) -> float:
    return float(x.detach().mean()) if x.numel() else float("nan")
