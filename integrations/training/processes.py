"""One or several processes that train together, as torchrun starts them.

Knows ranks and sums. Does not know models. Each process takes its share of a step's samples; gradients are summed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's number and how many there are."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    @classmethod
    def joined(cls, device: torch.device) -> Processes:
        """Joins the processes that torchrun started; alone where none did."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    def summed(self, tensors: Sequence[Tensor], numbers: Sequence[float]) -> list[float]:
        """Adds up tensors in place, and numbers, over all processes; returns the numbers."""
        if self.world == 1:
            return list(numbers)
        joint = torch.cat([*(one.flatten() for one in tensors), tensors[0].new_tensor(list(numbers))])
        dist.all_reduce(joint)
        parts = joint.split([*(one.numel() for one in tensors), len(numbers)])
        for one, part in zip(tensors, parts, strict=False):
            one.copy_(part.view_as(one))
        return [float(one) for one in parts[-1]]

    def wait(self) -> None:
        """Waits for all processes."""
        if self.world > 1:
            dist.barrier()

    def leave(self) -> None:
        """Ends the work together."""
        if self.world > 1:
            dist.destroy_process_group()
