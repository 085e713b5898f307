"""The head epilogue in Triton: grammar mask, temperature, keyed noise, argmax, confidence and filters, from raw logits.

Knows logits, masks and the sampling parameters of rows. `_scan` reads each tile of the vocabulary once and writes five
numbers for it, and its best tokens if runners-up are asked for; `_choose` and `_rank` combine the tiles of a row.
Neither probabilities nor noise are written to memory. Noise has the bits of `reference.gumbel` (no multiplication is
fused with an addition here), divisions are IEEE, ties go to the lower token id: without filters, tokens are exactly
those of `reference.sample_rows`.
"""

from __future__ import annotations

import typing
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import TensorRefused, check_same_device, check_tensor
from ..reference.head_epilogue import RowSampling as RowSampling
from ..reference.head_epilogue import RunnersUp as RunnersUp
from ..reference.head_epilogue import runners_up_in_torch as runners_up_in_torch
from ..reference.head_epilogue import sample_in_torch as sample_in_torch
from .filters import highest_of, mask_at, read_tile, within_filters
from .noise import noise_of
from .numerics import jit, launch

TILE: Final = 4096
"""Tokens of a tile."""


def sample(
    logits: Tensor,
    banned: Tensor,
    allowed: Tensor | None,
    params: RowSampling,
    out: tuple[Tensor, Tensor] | None = None,
    runners_up: RunnersUp | None = None,
) -> tuple[Tensor, Tensor]:
    """Runs the head epilogue on rows of any requests: logits [R, V] -> (tokens [R] int64, confidence [R] fp32).

    logits fp32 or bf16, with any distance between rows; columns beyond V are never read. `banned`, `allowed`,
    confidence: as in `reference.sample_rows`; a row's mask must allow a token that is not banned. `out`: buffers for
    both results. `runners_up`: buffers for each row's k best tokens, from the same read of its logits; meant for k up
    to about 16, which is a constant of the kernel. Raises TensorRefused.
    """
    rows, vocab = logits.shape
    _check(logits, banned, allowed, params)
    tokens, confidence = out or (
        torch.empty(rows, dtype=torch.int64, device=logits.device),
        torch.empty(rows, dtype=torch.float32, device=logits.device),
    )
    _check_out(logits, tokens, confidence, runners_up)
    if not rows:
        return tokens, confidence
    count = -(-vocab // TILE)
    found = torch.empty(rows, 4, count, dtype=torch.float32, device=logits.device)
    places = torch.empty(rows, count, dtype=torch.int32, device=logits.device)
    top_k, top_p = params.top_k, params.top_p
    k = 0 if runners_up is None else runners_up.ids.shape[1]
    best = torch.empty(rows, k, count, dtype=torch.float32, device=logits.device)
    best_at = torch.empty(rows, k, count, dtype=torch.int32, device=logits.device)
    # A missing tensor is replaced by another one, and a constant tells the kernel not to read it.
    common = (
        logits, banned, logits if allowed is None else allowed, params.seed, params.position, params.temperature,
        params.seed if params.mask is None else params.mask, found, places, vocab, logits.stride(0),
        0 if allowed is None else allowed.stride(0),
    )  # fmt: skip
    sizes = {"MASKED": _masked(allowed, params), "TILE": TILE}
    _scan[(rows, count)](*common, best, best_at, **launch(8, K=k, **sizes))
    _choose[(rows,)](
        *common, params.seed if top_k is None else top_k, params.seed if top_p is None else top_p, tokens, confidence,
        **launch(8, FILTERED=top_k is not None, TILES=count, WIDE=triton.next_power_of_2(count), **sizes),
    )  # fmt: skip
    if runners_up is not None and k:
        _rank[(rows,)](
            best, best_at, runners_up.ids, runners_up.logits,
            **launch(4, K=k, SIZE=k * count, WIDE=triton.next_power_of_2(k * count)),
        )  # fmt: skip
    return tokens, confidence


def _masked(allowed: Tensor | None, params: RowSampling) -> int:
    """Returns the kernel's mask mode: 0 without masks, 1 if row i has mask i, 2 if each row has an index."""
    return 0 if allowed is None else 1 if params.mask is None else 2


def _check_out(logits: Tensor, tokens: Tensor, confidence: Tensor, runners_up: RunnersUp | None) -> None:
    rows = logits.shape[0]
    check_tensor("tokens", tokens, (rows,), (torch.int64,))
    check_tensor("confidence", confidence, (rows,), (torch.float32,))
    check_same_device(logits, tokens=tokens, confidence=confidence)
    if runners_up is not None:
        check_tensor("runners_up.ids", runners_up.ids, (rows, None), (torch.int64,))
        check_tensor("runners_up.logits", runners_up.logits, tuple(runners_up.ids.shape), (torch.float32,))
        check_same_device(logits, ids=runners_up.ids, values=runners_up.logits)
        if not (runners_up.ids.is_contiguous() and runners_up.logits.is_contiguous()):
            raise TensorRefused("runners_up has gaps between its rows; give whole tensors")


def _check(logits: Tensor, banned: Tensor, allowed: Tensor | None, params: RowSampling) -> None:
    check_tensor("logits", logits, (None, None), (torch.float32, torch.bfloat16))
    rows, vocab = logits.shape
    check_tensor("banned", banned, (vocab,), (torch.bool,))
    if allowed is not None:
        check_tensor("allowed", allowed, (rows if params.mask is None else None, -(-vocab // 32)), (torch.int32,))
    if (params.top_k is None) != (params.top_p is None):
        raise TensorRefused("draws have one filter without the other; give top_k and top_p, or neither")
    wanted = {"seed": torch.int64, "position": torch.int64, "temperature": torch.float32}
    if params.top_k is not None:
        wanted |= {"top_k": torch.int32, "top_p": torch.float32}
    if params.mask is not None:
        wanted["mask"] = torch.int32
    columns = {name: getattr(params, name) for name in wanted}
    for name, dtype in wanted.items():
        check_tensor(name, columns[name], (rows,), (dtype,))
    check_same_device(logits, banned=banned, allowed=allowed, **columns)


@jit("seeds", "positions", "temperatures", "which")
def _scan(
    logits: typing.Any, banned: typing.Any, allowed: typing.Any, seeds: typing.Any, positions: typing.Any,
    temperatures: typing.Any, which: typing.Any, found: typing.Any, places: typing.Any, vocab: typing.Any,
    logits_row: typing.Any, allowed_row: typing.Any, best_of: typing.Any, best_at: typing.Any, K: tl.constexpr,
    MASKED: tl.constexpr, TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Program (row, tile). found [R, 4, tiles]: best perturbed score, highest score, highest logit, sum of exp.

    best_of and best_at [R, K, tiles]: the tile's K best logits in order, and their tokens.
    """
    row, tile, tiles = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    temperature = tl.load(temperatures + row)
    mask, allow_bits = mask_at(allowed, row, which, allowed_row, MASKED)
    token, wide, left = read_tile(logits + row * logits_row, banned, mask, allow_bits, vocab, tile, MASKED, TILE)
    score = left
    if temperature > 0:
        score = tl.div_rn(score, temperature + tl.zeros_like(score))
    highest = tl.max(score)
    if temperature > 0:
        score += noise_of(tl.load(seeds + row), tl.load(positions + row), tile * (TILE // 4), TILE)
    best, place = highest_of(score, token)
    top = tl.maximum(tl.max(wide), -1e30)
    here = found + row * 4 * tiles + tile
    tl.store(here, best)
    tl.store(here + tiles, highest)
    tl.store(here + 2 * tiles, top)
    tl.store(here + 3 * tiles, tl.sum(tl.exp(wide - top)))
    tl.store(places + row * tiles + tile, place)
    for rank in tl.static_range(K):  # pyright: ignore[reportGeneralTypeIssues]
        best, place = highest_of(left, token)
        tl.store(best_of + (row * K + rank) * tiles + tile, best)
        tl.store(best_at + (row * K + rank) * tiles + tile, place)
        left = tl.where(token == place, float("-inf"), left)


@triton.jit
def _rank(
    best_of: typing.Any, best_at: typing.Any, ids: typing.Any, values: typing.Any, K: tl.constexpr,
    SIZE: tl.constexpr, WIDE: tl.constexpr,
) -> None:  # fmt: skip
    """Program (row,): the K best of all its tiles' K best."""
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, WIDE)
    left = tl.load(best_of + row * SIZE + at, mask=at < SIZE, other=float("-inf"))
    token = tl.load(best_at + row * SIZE + at, mask=at < SIZE, other=0x7FFFFFFF)
    for rank in tl.static_range(K):  # pyright: ignore[reportGeneralTypeIssues]
        best, place = highest_of(left, token)
        tl.store(ids + row * K + rank, tl.where(best == float("-inf"), -1, place).to(tl.int64))
        tl.store(values + row * K + rank, best)
        left = tl.where(token == place, float("-inf"), left)


@jit("seeds", "positions", "temperatures", "which", "top_ks", "top_ps", "tokens", "confidence")
def _choose(
    logits: typing.Any, banned: typing.Any, allowed: typing.Any, seeds: typing.Any, positions: typing.Any,
    temperatures: typing.Any, which: typing.Any, found: typing.Any, places: typing.Any, vocab: typing.Any,
    logits_row: typing.Any, allowed_row: typing.Any, top_ks: typing.Any, top_ps: typing.Any, tokens: typing.Any,
    confidence: typing.Any, FILTERED: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr, MASKED: tl.constexpr,
    TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Program (row,): combines its tiles, then applies its filters."""
    row, tile = tl.program_id(0).to(tl.int64), tl.arange(0, WIDE)
    real, here = tile < TILES, found + row * 4 * TILES + tile
    place = tl.load(places + row * TILES + tile, mask=real, other=0x7FFFFFFF)
    _, chosen = highest_of(tl.load(here, mask=real, other=float("-inf")), place)
    chosen = tl.minimum(chosen, vocab - 1)  # a row of NaN has no best token; this keeps the read within the row
    tops = tl.load(here + 2 * TILES, mask=real, other=-1e30)
    top = tl.max(tops)
    total = tl.sum(tl.load(here + 3 * TILES, mask=real, other=0) * tl.exp(tops - top))
    line = logits + row * logits_row
    if FILTERED:
        temperature, top_k, top_p = tl.load(temperatures + row), tl.load(top_ks + row), tl.load(top_ps + row)
        if (temperature > 0) & ((top_k > 0) | (top_p < 1)):
            mask, allow_bits = mask_at(allowed, row, which, allowed_row, MASKED)
            highest = tl.max(tl.load(here + TILES, mask=real, other=float("-inf")))
            chosen = within_filters(
                line, banned, mask, allow_bits, tl.load(seeds + row), tl.load(positions + row), temperature, vocab,
                chosen, highest, tl.where(top_k > 0, top_k, vocab), top_p, TILES, MASKED, TILE,
            )  # fmt: skip
    tl.store(tokens + row, chosen.to(tl.int64))
    tl.store(confidence + row, tl.exp(tl.load(line + chosen).to(tl.float32) - top) / total)
