"""The torch reference without its row tiles: one row costs one row, and is no longer the same row in other company.

What that gives up: a row's logits may differ in the last bits with the number of rows in the pass, so exact modes may
part ways at a near tie, about once in 10^5 to 10^6 tokens. For comparison and for those who do not need agreement.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from . import block, reference
from .quantize import Quantized, dequantize
from .reference import gumbel as gumbel

name = "torch-fast"
row_tile = 1


def linear(x: Tensor, weight: Tensor | Quantized, onto: Tensor | None = None) -> Tensor:
    """`reference.linear`, unpadded."""
    y = F.linear(x, dequantize(weight, x.dtype) if isinstance(weight, Quantized) else weight)
    return y if onto is None else onto + y


forward = partial(block.forward, sys.modules[__name__])
"""A pass by the ops of this module; see `block.forward`."""
choose = partial(block.choose, sys.modules[__name__])
"""Tokens by `pick` of this module; see `block.choose`."""


def __getattr__(name: str) -> Any:
    """Everything else is the reference's."""
    return getattr(reference, name)
