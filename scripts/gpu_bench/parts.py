"""Kernels one by one beside their counterparts in torch (cuBLAS, SDPA) on the same tensors.

Knows kernels and sizes. A counterpart of weights in eight bits is cuBLAS on whole ones: what one would run otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trimode.engine.models.config import ModelConfig
from trimode.kernels.gpu import attention as triton_attention
from trimode.kernels.gpu import head_epilogue as triton_head
from trimode.kernels.gpu import linear as triton_linear
from trimode.kernels.gpu import norm as triton_norm
from trimode.kernels.gpu import swiglu as triton_swiglu
from trimode.kernels.layout import PAGE, Layout
from trimode.kernels.quantize import BY_OUTPUT, Quantized, quantize

from .timing import Bench, Card

Pair = tuple[Callable[[], object], Callable[[], object], int, int]
"""Ours, the counterpart, bytes that have to move, FLOP."""


def measure(config: ModelConfig, bench: Bench, card: Card, rows: list[int], contexts: list[int]) -> Iterator[Any]:
    """A row for each kernel at each number of rows."""
    for count in rows:
        pairs = {**_products(config, bench, count), **_rowwise(config, bench, count)}
        for context in contexts:
            pairs[f"attention, context {context}"] = _attention(config, bench, count, context)
        for name, (ours, theirs, moved, flop) in pairs.items():
            seconds = bench.medians({"ours": ours, "torch": theirs})
            row = card.row(seconds["ours"], moved, flop)
            yield {"kernel": name, "rows": count, **row, "torch_ms": 1e3 * seconds["torch"]}


def _products(config: ModelConfig, bench: Bench, rows: int) -> dict[str, Pair]:
    hidden, mixed = config.hidden_size, config.num_attention_heads * config.head_dim
    sizes = {
        "qkv": (mixed + 2 * config.num_key_value_heads * config.head_dim, hidden),
        "out": (hidden, mixed),
        "down": (hidden, config.intermediate_size),
        "head": (config.vocab_size, hidden),
    }
    pairs: dict[str, Pair] = {}
    for name, (outputs, inputs) in sizes.items():
        x, weight = _draw(bench, rows, inputs), _draw(bench, outputs, inputs)
        for kept, one in _kept(weight).items():
            moved = one.nbytes + x.nbytes + rows * outputs * x.itemsize
            pairs[f"{name} {kept}"] = (
                partial(triton_linear.linear, x, one),
                partial(F.linear, x, weight),
                moved,
                2 * rows * outputs * inputs,
            )
    return pairs


def _kept(weight: Tensor) -> dict[str, Tensor | Quantized]:
    return {"whole": weight, **{precision: quantize(weight, precision) for precision in BY_OUTPUT}}


def _rowwise(config: ModelConfig, bench: Bench, rows: int) -> dict[str, Pair]:
    """SwiGLU with its product; the norm; the choice of tokens at temperature 1, whose noise torch draws of its own."""
    hidden, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    x, both, norm = _draw(bench, rows, hidden), _draw(bench, 2 * inner, hidden), _draw(bench, hidden)
    logits = _draw(bench, rows, vocab)
    numbers = torch.arange(rows, device=bench.device)
    banned = torch.zeros(vocab, dtype=torch.bool, device=bench.device)
    draws = triton_head.RowSampling(numbers, numbers, torch.ones(rows, device=bench.device))

    def gated() -> Tensor:
        gate, up = F.linear(x, both).chunk(2, dim=-1)
        return F.silu(gate) * up

    def sampled() -> tuple[Tensor, Tensor]:
        scores = logits.float()
        tokens = (scores - torch.empty_like(scores).exponential_().log()).argmax(-1, keepdim=True)
        return tokens, scores.softmax(-1).gather(-1, tokens)

    return {
        "gate-up with SwiGLU": (
            lambda: triton_swiglu.gated(x, both),
            gated,
            both.nbytes + x.nbytes + rows * inner * x.itemsize,
            4 * rows * hidden * inner,
        ),
        "norm": (
            lambda: triton_norm.rms_norm(x, norm, config.rms_norm_eps),
            lambda: F.rms_norm(x, (hidden,), norm, config.rms_norm_eps),
            2 * x.nbytes + norm.nbytes,
            0,
        ),
        "tokens from logits": (lambda: triton_head.sample(logits, banned, None, draws), sampled, logits.nbytes, 0),
    }


def _attention(config: ModelConfig, bench: Bench, rows: int, context: int) -> Pair:
    """One request's rows, which all see the whole context, beside SDPA on keys and values without pages."""
    heads, groups, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    pages = -(-context // PAGE)
    keys, values = _draw(bench, pages, groups, dim, PAGE), _draw(bench, pages, groups, PAGE, dim)
    x = _draw(bench, rows, heads + 2 * groups, dim)
    zero = torch.zeros(rows, dtype=torch.int64, device=bench.device)
    table = torch.arange(pages, device=bench.device)[None]
    layout = Layout(table, zero, zero + context, zero, zero, zero - 1)
    q = x[:, :heads].transpose(0, 1)[None].contiguous()
    k, v = (_draw(bench, 1, groups, context, dim) for _ in range(2))
    return (
        lambda: triton_attention.attention(x, heads, keys, values, layout),
        lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        k.nbytes + v.nbytes + 2 * q.nbytes,
        4 * rows * heads * context * dim,
    )


def _draw(bench: Bench, *shape: int) -> Tensor:
    return torch.randn(*shape, device=bench.device).to(bench.dtype)
