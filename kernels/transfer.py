"""Asynchronous copies to a device, from pinned memory that torch keeps until they are complete.

Knows tensors. Copies are queued on the device like other work; what is queued after them reads the result.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copies `values` from CPU memory to `device` without waiting; returns `values` itself if that is the CPU."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def copy_into(values: Tensor, target: Tensor) -> None:
    """Copies `values` from CPU memory into `target` without waiting."""
    target.copy_(values.pin_memory() if target.device.type == "cuda" else values, non_blocking=True)


def int64_tensor(values: Iterable[int]) -> Tensor:
    """Returns an int64 tensor [N]; by way of an array, because torch inspects each element of a list several times."""
    packed = array("q", values)
    return torch.frombuffer(packed, dtype=torch.int64) if packed else torch.empty(0, dtype=torch.int64)
