"""Numbers on their way to a device, which nobody waits for: pinned memory that torch keeps until they have arrived.

Knows tensors. Copies stand in the device's queue like any other work; what is queued behind them reads them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """`values`, in the CPU's memory, on `device`; themselves where that is the CPU."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def copy_into(values: Tensor, target: Tensor) -> None:
    """`values`, in the CPU's memory, into `target` where that is."""
    target.copy_(values.pin_memory() if target.device.type == "cuda" else values, non_blocking=True)


def int64_tensor(values: Iterable[int]) -> Tensor:
    """[N] int64. An array first: torch looks at each element of a list several times."""
    packed = array("q", values)
    return torch.frombuffer(packed, dtype=torch.int64) if packed else torch.empty(0, dtype=torch.int64)
