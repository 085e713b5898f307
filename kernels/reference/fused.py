"""The fused ops in plain torch, each as the sequence of ops that it fuses. Knows tensors only.

Same arguments and results as the ops of the same name in `gpu/linear`, `gpu/swiglu`, `gpu/norm` and `gpu/lora`: sums in
fp32 and one rounding to the rows' dtype, but in torch's order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..quantize import Quantized, dequantize
from ..tiles import tiles
from . import torch_ops


def linear(x: Tensor, weight: Tensor | Quantized, onto: Tensor | None = None) -> Tensor:
    return fold(_product(x, weight)[None], x.dtype, onto)


def parts(x: Tensor, weight: Tensor | Quantized, flags: Tensor | None = None) -> Tensor:
    values = weight.values if isinstance(weight, Quantized) else weight
    plan = tiles(max(1, x.shape[0]), values.shape[0], values.shape[1], values.dtype)
    wide = _wide(weight)
    found = torch.stack(
        [a.float() @ b.T for a, b in zip(x.split(plan.chunk, 1), wide.split(plan.chunk, 1), strict=True)]
    )
    return found if flags is None else found * (flags != 0)[:, None]


def fold(parts: Tensor, dtype: torch.dtype, onto: Tensor | None = None) -> Tensor:
    total = parts.sum(0)
    return (total if onto is None else total + onto.float()).to(dtype)


def adapted_linear(
    x: Tensor, weight: Tensor | Quantized, adapter: tuple[Tensor, Tensor], flags: Tensor, onto: Tensor | None = None
) -> Tensor:
    return fold(adapted_parts(x, weight, adapter, flags).sum(0, keepdim=True), x.dtype, onto)


def adapted_parts(x: Tensor, weight: Tensor | Quantized, adapter: tuple[Tensor, Tensor], flags: Tensor) -> Tensor:
    found = parts(x, weight)
    found[0] += _product(linear(x, adapter[0]), adapter[1]) * (flags != 0)[:, None]
    return found


def gated(
    x: Tensor,
    weight: Tensor | Quantized,
    adapter: tuple[Tensor, Tensor] | None = None,
    flags: Tensor | None = None,
) -> Tensor:
    both = _product(x, weight)
    if adapter is not None and flags is not None:
        both += _product(linear(x, adapter[0]), adapter[1]) * (flags != 0)[:, None]
    return torch_ops.swiglu(both).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float, groups: int = 1) -> Tensor:
    return torch_ops.rms_norm(x, weight, eps, groups)


def add_rms_norm(x: Tensor, onto: Tensor, weight: Tensor, eps: float, groups: int = 1) -> tuple[Tensor, Tensor]:
    total = fold(x.float() if x.ndim == 3 else x.float()[None], onto.dtype, onto)
    return total, rms_norm(total, weight, eps, groups)


def _product(x: Tensor, weight: Tensor | Quantized) -> Tensor:
    return x.float() @ _wide(weight).T


def _wide(weight: Tensor | Quantized) -> Tensor:
    return dequantize(weight, torch.float32) if isinstance(weight, Quantized) else weight.float()
