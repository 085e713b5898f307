"""Seconds of GPU work, interleaved and by CUDA events; and what the card itself can do: bytes moved, products.

Knows callables and tensors. Without a GPU the clock is the wall's, which is good for a trial of the bench alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import torch

Work = Callable[[], object]
_SIZES: Final = {"cuda": (1 << 30, 8192), "cpu": (1 << 22, 128)}
"""Bytes of the tensor that is copied, and rows of the square product, by kind of device."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and how often. `rounds` timed ones, after `warm` untimed."""

    device: torch.device
    dtype: torch.dtype
    rounds: int
    warm: int

    def medians(self, contenders: Mapping[str, Work]) -> dict[str, float]:
        """Median seconds of each. They take turns, and each round another one goes first."""
        names = list(contenders)
        found: dict[str, list[float]] = {name: [] for name in names}
        with torch.inference_mode():
            for number in range(self.warm + self.rounds):
                turn = number % len(names)
                for name in (*names[turn:], *names[:turn]):
                    seconds = self._seconds(contenders[name])
                    if number >= self.warm:
                        found[name].append(seconds)
        return {name: median(times) for name, times in found.items()}

    def _seconds(self, work: Work) -> float:
        if self.device.type != "cuda":
            begin = time.perf_counter()
            work()
            return time.perf_counter() - begin
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        begun.record()
        work()
        ended.record()
        ended.synchronize()
        return float(begun.elapsed_time(ended)) / 1e3


@dataclass(frozen=True, slots=True)
class Card:
    """Measured: bytes/s of a large copy, read and written ones together, and FLOP/s of a large product."""

    bytes_per_s: float
    flop_per_s: float

    def floor(self, moved: float, flop: float) -> float:
        """Seconds below which work that moves so many bytes and multiplies so much cannot come: the roofline."""
        return max(moved / self.bytes_per_s, flop / self.flop_per_s)

    def row(self, seconds: float, moved: float, flop: float) -> dict[str, Any]:
        """A line of the report."""
        return {
            "ms": 1e3 * seconds,
            "bytes": int(moved),
            "flop": int(flop),
            "roofline_ms": 1e3 * self.floor(moved, flop),
            "fraction_of_roofline": self.floor(moved, flop) / seconds,
        }


def measured(bench: Bench) -> Card:
    """The card, before anything else uses its memory."""
    size, width = _SIZES[bench.device.type]
    source = torch.ones(size // bench.dtype.itemsize, dtype=bench.dtype, device=bench.device)
    target = torch.empty_like(source)
    square = torch.ones(width, width, dtype=bench.dtype, device=bench.device)
    seconds = bench.medians({"copy": lambda: target.copy_(source), "product": lambda: square @ square})
    return Card(2 * size / seconds["copy"], 2 * width**3 / seconds["product"])
