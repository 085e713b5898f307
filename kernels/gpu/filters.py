"""Top-k and top-p in Triton without a sort, and the loading of one tile of a row's scores.

Knows one row's logits, mask and temperature. Does not know the results of tiles, or where tokens are written.

The best perturbed token (score + noise) is the answer if it is within the filters: fewer than top_k scores are above
it, and the probability of the tokens before it is less than top_p. Otherwise neither it nor any token after it is, and
the best perturbed token among those before it is tried. Each try reads the row's logits once more; few are needed. With
both filters, the top_k-th score is found first, by bisection. Probabilities are added in another order than in
`reference.filtered`, so a token at which their sum equals top_p up to the last bits may be decided the other way; the
decision depends on its row alone.
"""

from __future__ import annotations

import typing

import triton.language as tl

from .noise import noise_of
from .numerics import jit


@jit()
def read_tile(
    logits: typing.Any, banned: typing.Any, allowed: typing.Any, allow_bits: typing.Any, vocab: typing.Any,
    tile: typing.Any, MASKED: tl.constexpr, TILE: tl.constexpr,
) -> typing.Any:  # fmt: skip
    """Loads one tile [TILE / 4, 4] of a row: token ids, allowed logits, and allowed logits without banned tokens."""
    token = tile * TILE + tl.arange(0, TILE // 4)[:, None] * 4 + tl.arange(0, 4)[None]
    real = token < vocab
    shown = real
    if MASKED:
        word = tl.load(allowed + token // 32, mask=real, other=0) | allow_bits
        shown = real & (((word >> (token % 32)) & 1) != 0)
    wide = tl.where(shown, tl.load(logits + token, mask=real, other=0).to(tl.float32), float("-inf"))
    left = tl.where(tl.load(banned + token, mask=real, other=1) != 0, float("-inf"), wide)
    return token, wide, tl.where(left == 0, 0.0, left)


@jit()
def scores_of(
    logits: typing.Any, banned: typing.Any, allowed: typing.Any, allow_bits: typing.Any, temperature: typing.Any,
    vocab: typing.Any, tile: typing.Any, MASKED: tl.constexpr, TILE: tl.constexpr,
) -> typing.Any:  # fmt: skip
    """Returns the token ids of a tile and their scores (logits / temperature), for a temperature above 0."""
    token, _, left = read_tile(logits, banned, allowed, allow_bits, vocab, tile, MASKED, TILE)
    return token, tl.div_rn(left, temperature + tl.zeros_like(left))


@jit()
def mask_at(
    allowed: typing.Any, row: typing.Any, which: typing.Any, step: typing.Any, MASKED: tl.constexpr
) -> typing.Any:
    """Returns the address of a row's mask, and bits to set in all its words: all of them if the row has no mask."""
    at = row
    if MASKED == 2:
        at = tl.load(which + row).to(tl.int64)
    allow_bits = tl.where(at < 0, -1, 0)
    return allowed + tl.maximum(at, 0) * step, allow_bits


@jit()
def highest_of(score: typing.Any, token: typing.Any) -> typing.Any:
    """Returns the highest score and the lowest token id that has it."""
    best = tl.max(score)
    return best, tl.min(tl.where(score == best, token, 0x7FFFFFFF))


@jit()
def within_filters(
    logits: typing.Any, banned: typing.Any, allowed: typing.Any, allow_bits: typing.Any, seed: typing.Any,
    position: typing.Any, temperature: typing.Any, vocab: typing.Any, chosen: typing.Any, highest: typing.Any,
    top_k: typing.Any, top_p: typing.Any, TILES: tl.constexpr, MASKED: tl.constexpr, TILE: tl.constexpr,
) -> typing.Any:  # fmt: skip
    """Returns the best perturbed token within the filters; `chosen` is the best one without them."""
    floor = order_of(tl.full([], float("-inf"), tl.float32))
    limit = tl.full([], float("inf"), tl.float32)
    if top_p < 1:
        if top_k < vocab:
            floor = kth_order(
                logits, banned, allowed, allow_bits, temperature, vocab, highest, top_k, TILES, MASKED, TILE
            )
        total = tl.zeros([], tl.float32)
        for tile in range(TILES):
            _, score = scores_of(logits, banned, allowed, allow_bits, temperature, vocab, tile, MASKED, TILE)
            total += tl.sum(tl.where(order_of(score) >= floor, tl.exp(score - highest), 0.0))
        limit = total * top_p
    trying = True
    while trying:
        own = tl.load(logits + chosen).to(tl.float32)
        own = tl.div_rn(tl.where(own == 0, 0.0, own), temperature)
        above, before = tl.zeros([], tl.int32), tl.zeros([], tl.float32)
        best, better = tl.full([], float("-inf"), tl.float32), tl.full([], 0x7FFFFFFF, tl.int32)
        for tile in range(TILES):
            token, score = scores_of(logits, banned, allowed, allow_bits, temperature, vocab, tile, MASKED, TILE)
            ahead = (score > own) | ((score == own) & (token < chosen))
            found: typing.Any = tl.max(ahead.to(tl.int32))
            if found > 0:
                above += tl.sum((score > own).to(tl.int32))
                before += tl.sum(tl.where(ahead, tl.exp(score - highest), 0.0))
                score += noise_of(seed, position, tile * (TILE // 4), TILE)
                here, place = highest_of(tl.where(ahead, score, float("-inf")), token)
                better = tl.where(here > best, place, better)
                best = tl.maximum(here, best)
        trying = ((above >= top_k) | (before >= limit)) & (better < vocab)
        if trying:
            chosen = better
    return chosen


@jit()
def order_of(score: typing.Any) -> typing.Any:
    """Maps scores to int64 numbers in the same order."""
    bits = score.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)


@jit()
def kth_order(
    logits: typing.Any, banned: typing.Any, allowed: typing.Any, allow_bits: typing.Any, temperature: typing.Any,
    vocab: typing.Any, highest: typing.Any, top_k: typing.Any, TILES: tl.constexpr, MASKED: tl.constexpr,
    TILE: tl.constexpr,
) -> typing.Any:  # fmt: skip
    """Returns a threshold: `order_of` reaches it for exactly the scores at or above the top_k-th one."""
    low = order_of(tl.full([], float("-inf"), tl.float32))
    high = order_of(highest) + 1
    while high - low > 1:
        middle = (low + high) >> 1
        count = tl.zeros([], tl.int32)
        for tile in range(TILES):
            _, score = scores_of(logits, banned, allowed, allow_bits, temperature, vocab, tile, MASKED, TILE)
            count += tl.sum((order_of(score) >= middle).to(tl.int32))
        low = tl.where(count >= top_k, middle, low)
        high = tl.where(count > top_k, high, tl.where(count == top_k, middle + 1, middle))
    return low
