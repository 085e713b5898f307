"""The roofline of decoding on this machine: measured rates of reading weights and multiplying, and bounds from both.

Knows tensors and a model's geometry. Does not know engines. Rates apply to the current thread count.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import torch

from trimode.engine.models.config import ModelConfig

_LARGE: Final = 1 << 28
_WIDTH: Final = 1024
_REPEATS: Final = 9
TRIES: Final = 3
"""Times that the machine is measured before its floor counts as failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Measured rates: bytes/s of reading a large tensor and one of the weights' own size, FLOP/s of a product.

    `weight_bytes`: bytes that every pass reads, of the matrices as the kernels store them, without keys and values.
    """

    weight_bytes: int
    parameters: int
    large_bytes_per_s: float
    own_size_bytes_per_s: float
    flop_per_s: float

    @property
    def pass_seconds(self) -> float:
        """Lower bound of a pass in seconds (derived): the time to read the weights at the rate for their size."""
        return self.weight_bytes / self.own_size_bytes_per_s

    @property
    def pass_seconds_from_memory(self) -> float:
        """Lower bound of a pass in seconds (derived) if the weights are read from memory, not from a cache."""
        return self.weight_bytes / self.large_bytes_per_s

    @property
    def multiply_seconds_per_row(self) -> float:
        """Seconds (derived) of the products of one row at the rate of a large product."""
        return 2 * self.parameters / self.flop_per_s


def measure(config: ModelConfig, dtype: torch.dtype, size: int) -> Roofline:
    """Measures the machine, in a few seconds and about 300 MB. `size`: bytes of the weights as the kernels store
    them."""
    parameters = read_parameters(config)
    return Roofline(
        weight_bytes=size,
        parameters=parameters,
        large_bytes_per_s=read_rate(_LARGE, dtype),
        own_size_bytes_per_s=read_rate(size, dtype),
        flop_per_s=multiply_rate(dtype),
    )


def possible(first: Roofline, pass_seconds: float | None, again: Callable[[], Roofline]) -> tuple[Roofline, bool]:
    """Returns a roofline that a measured pass does not contradict, and whether one was found within TRIES.

    A floor above a pass that was measured cannot be one: other work slowed the probe. `first` was measured already;
    `again` measures anew. `pass_seconds`: of one pass, None where none was measured. The lowest floor is returned where
    all are impossible.
    """
    found = [first]
    while pass_seconds is not None and found[-1].pass_seconds > pass_seconds and len(found) < TRIES:
        found.append(again())
    best = min(found, key=lambda machine: machine.pass_seconds)
    return best, pass_seconds is None or best.pass_seconds <= pass_seconds


def read_parameters(config: ModelConfig) -> int:
    """Returns the parameters of the matrices of one pass: all layers and the LM head, without the embedding table."""
    hidden, dim = config.hidden_size, config.head_dim
    attention = 2 * hidden * dim * (config.num_attention_heads + config.num_key_value_heads)
    mlp = 3 * hidden * config.intermediate_size
    return config.num_hidden_layers * (attention + mlp) + config.vocab_size * hidden


def read_rate(size: int, dtype: torch.dtype) -> float:
    """Measures bytes/s of reading `size` bytes repeatedly: the faster of a sum and a matrix-vector product."""
    rows = max(1, size // dtype.itemsize // _WIDTH)
    x, vector = torch.ones(rows, _WIDTH, dtype=dtype), torch.ones(_WIDTH, dtype=dtype)
    seconds = min(_seconds(x.sum), _seconds(lambda: torch.mv(x, vector)))
    return x.numel() * dtype.itemsize / seconds


def multiply_rate(dtype: torch.dtype) -> float:
    """Measures FLOP/s of a square matrix product that fits the caches."""
    x = torch.ones(_WIDTH, _WIDTH, dtype=dtype)
    return 2 * _WIDTH**3 / _seconds(lambda: torch.mm(x, x))


def _seconds(work: Callable[[], object]) -> float:
    """Returns the median seconds of several runs, after a first one for warm-up."""
    work()
    times: list[float] = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return median(times)


def cpu_model() -> str:
    """Returns the processor's name as the system reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
