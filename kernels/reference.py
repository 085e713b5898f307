"""Every op in plain torch, written to be obviously right. Knows tensors only.

On CPU these are also what runs. Their results are *row-invariant*: a row's value does not depend, to the last bit, on
how many rows ride along. Matrix products get there by padding the row count to a multiple of `ROW_TILE` (below that the
BLAS picks other kernels for other row counts), attention by walking keys in tiles of `KEY_TILE` at fixed positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ROW_TILE = 4
KEY_TILE = 64


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [T, in] times weight [out, in] transposed -> [T, out]."""
    rows = x.shape[0]
    short = -rows % ROW_TILE
    if not short or x.requires_grad:
        return F.linear(x, weight)
    return F.linear(F.pad(x, (0, 0, 0, short)), weight)[:rows]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [T, E] / rms(x) * weight [E], the mean square in fp32."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, both [T, I]."""
    return F.silu(gate) * up


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the half-rotation layout: x [T, H, D], cos and sin [T, 1, D]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
