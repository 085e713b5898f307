"""Argument checks of ops before memory is read: rank, size, dtype, device and strides of tensors.

Knows tensors only. Messages name the argument, what was given, what is allowed and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class TensorRefused(ValueError):
    """A tensor that the op cannot take; the message says what it can take."""


def check_tensor(name: str, tensor: Tensor, shape: Sequence[int | None], dtypes: Sequence[torch.dtype]) -> None:
    """Checks that `tensor` has `shape` (None: any size), one of `dtypes` and stride 1 in its last dimension.

    Rows may have gaps between them. Raises TensorRefused.
    """
    fits = tensor.ndim == len(shape) and all(w in (None, g) for w, g in zip(shape, tensor.shape, strict=False))
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise TensorRefused(f"{name} has shape {list(tensor.shape)}; this op takes [{wanted}]")
    if tensor.dtype not in dtypes:
        allowed = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TensorRefused(f"{name} is {str(tensor.dtype).removeprefix('torch.')}; this op takes {allowed}")
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise TensorRefused(
            f"{name} has strides {tensor.stride()}; its last dimension must be without gaps: call contiguous() first"
        )


def check_same_device(first: Tensor, **others: Tensor | None) -> None:
    """Checks that all tensors are on the device of `first`. Raises TensorRefused."""
    for name, tensor in others.items():
        if tensor is not None and tensor.device != first.device:
            raise TensorRefused(f"{name} is on {tensor.device}, the rows are on {first.device}; move one to the other")
