"""The reference without row invariance: each op is one call of the library if it has one.

Knows tensors only. A row's logits may differ in the last bits with the number of rows in the pass, so exact modes may
diverge at a near tie, about once in 10^5 to 10^6 tokens. It serves comparison, and users who do not need agreement.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import block
from ..blocks import Blocks
from ..layout import SampledTokens
from ..quantize import Quantized, dequantize
from . import attend, torch_ops
from .fixed_shape import Arithmetic
from .noise import gumbel as gumbel

name = "torch-fast"
exact = False


def linear(x: Tensor, weight: Tensor | Quantized | Blocks, onto: Tensor | None = None) -> Tensor:
    """Returns `reference.linear` by one call."""
    y = F.linear(x, dequantize(weight, x.dtype) if isinstance(weight, Quantized | Blocks) else weight)
    return y if onto is None else onto + y


def rms_norm(x: Tensor, weight: Tensor, eps: float, groups: int = 1) -> Tensor:
    """Returns `reference.rms_norm`."""
    wide = x.float().view(-1, x.shape[-1] // groups)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype).view(x.shape)


def swiglu(both: Tensor) -> Tensor:
    """Returns `reference.swiglu`."""
    gate, up = both.chunk(2, dim=-1)
    return F.silu(gate) * up


LIBRARY = Arithmetic(torch.matmul, torch.exp, lambda x: x.sum(-1, keepdim=True))
attention: partial[Tensor] = partial(attend.attention, LIBRARY)
"""Attention by the library's arithmetic; see `attend.attention`."""
forward: partial[tuple[Tensor, list[SampledTokens]]] = partial(block.forward, sys.modules[__name__])
"""A pass by the ops of this module; see `block.forward`."""
choose: partial[list[SampledTokens]] = partial(block.choose, sys.modules[__name__])
"""Token choice by `sample_rows` of this module; see `block.choose`."""


def __getattr__(name: str) -> Any:
    """Returns the reference's function for every other name."""
    return getattr(torch_ops, name)
