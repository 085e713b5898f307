"""What bounds decoding on this machine: how fast it reads weights and multiplies, measured; floors derived from both.

Knows tensors and a model's geometry. Does not know engines. Rates hold for the thread count that is set.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """Rates are measured: bytes/s of reading a large tensor and one of the weights' own size, FLOP/s of a product.

    `weight_bytes`, read by every pass, are those of the matrices as the kernels keep them, without keys and values.
    """

    weight_bytes: int
    parameters: int
    large_bytes_per_s: float
    own_size_bytes_per_s: float
    flop_per_s: float

    @property
    def pass_seconds(self) -> float:
        """Derived: no pass can be faster than reading its weights from where weights of that size lie."""
        return self.weight_bytes / self.own_size_bytes_per_s

    @property
    def pass_seconds_from_memory(self) -> float:
        """Derived: the same, were the weights read from memory and not from a cache."""
        return self.weight_bytes / self.large_bytes_per_s

    @property
    def multiply_seconds_per_row(self) -> float:
        """Derived: the products of one row at the rate of a large product."""
        return 2 * self.parameters / self.flop_per_s


def measure(config: ModelConfig, dtype: torch.dtype, size: int) -> Floor:
    """Takes a few seconds and about 300 MB. `size`: bytes of the weights as the kernels keep them."""
    parameters = read_parameters(config)
    return Floor(
        weight_bytes=size,
        parameters=parameters,
        large_bytes_per_s=read_rate(_LARGE, dtype),
        own_size_bytes_per_s=read_rate(size, dtype),
        flop_per_s=multiply_rate(dtype),
    )


def read_parameters(config: ModelConfig) -> int:
    """Parameters of the matrices that one pass multiplies with: every layer and the head, not the embedding table."""
    hidden, dim = config.hidden_size, config.head_dim
    attention = 2 * hidden * dim * (config.num_attention_heads + config.num_key_value_heads)
    mlp = 3 * hidden * config.intermediate_size
    return config.num_hidden_layers * (attention + mlp) + config.vocab_size * hidden


def read_rate(size: int, dtype: torch.dtype) -> float:
    """Bytes/s of reading `size` bytes again and again: the faster of a sum and a matrix-vector product."""
    rows = max(1, size // dtype.itemsize // _WIDTH)
    x, vector = torch.ones(rows, _WIDTH, dtype=dtype), torch.ones(_WIDTH, dtype=dtype)
    seconds = min(_seconds(x.sum), _seconds(lambda: torch.mv(x, vector)))
    return x.numel() * dtype.itemsize / seconds


def multiply_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a square product that fits the caches."""
    x = torch.ones(_WIDTH, _WIDTH, dtype=dtype)
    return 2 * _WIDTH**3 / _seconds(lambda: torch.mm(x, x))


def _seconds(work: Callable[[], object]) -> float:
    """Median of several runs, after one that warms up."""
    work()
    times: list[float] = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return median(times)


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
