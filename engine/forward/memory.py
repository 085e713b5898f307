"""What an engine needs of its device, added up before it is taken: weights, keys and values, buffers, graphs.

Knows sizes. Weights are there already; of the rest, what graphs keep for themselves is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from trimode.kernels.ops import PAGE

from ..errors import DeviceMemoryExceeded
from ..kv_cache.pages import page_bytes
from ..models.model import Transformer
from .graphs import Bucket, Buckets, Buffers, counted, listed
from .runner import Runner

_EACH_GRAPH = 4 << 20
"""Bytes that the driver keeps for a graph of some hundred launches: a guess, which no device has confirmed yet."""
_WIDTH = 17
"""Stretches of attention that a row may have."""
_PARTS = 8
"""Parts of a product that a row may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Bytes. `weights` are in use already; `graphs` is an estimate from above of what passes work in."""

    weights: int
    pages: int
    buffers: int
    graphs: int

    @property
    def parts(self) -> dict[str, int]:
        return {
            "weights": self.weights,
            "keys and values": self.pages,
            "static buffers": self.buffers,
            "graphs (estimated)": self.graphs,
        }

    def check(self, device: torch.device) -> None:
        """Raises DeviceMemoryExceeded where the device says that it has less."""
        free = free_bytes(device)
        if free is not None and self.pages + self.buffers + self.graphs > free:
            raise DeviceMemoryExceeded(str(device), free + self.weights, self.parts)


def planned(model: Transformer, runner: Runner, kv_bytes: int, buckets: Buckets | None) -> Plan:
    """The plan of an engine on this runner; `buckets`: None where no pass is captured."""
    size = page_bytes(runner.config, runner.embedding.dtype)
    pages = kv_bytes // size
    made = [] if buckets is None else listed(runner, pages, buckets)
    return Plan(
        weights=resident(model, runner),
        pages=pages * size,
        buffers=Buffers(runner, made, torch.device("meta")).nbytes if made else 0,
        graphs=max((working(runner, bucket) for bucket in made), default=0)
        + _EACH_GRAPH * (len(made) + len(counted(runner, made))),
    )


def working(runner: Runner, bucket: Bucket) -> int:
    """Bytes that a pass works in beside its buffers: the most that may live at a time, none of it shared."""
    config, size = runner.config, runner.embedding.dtype.itemsize
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    stretches = min(_WIDTH, -(-bucket.tiles * PAGE // 256) + 1)
    attention = 4 * config.num_attention_heads * stretches * (config.head_dim + 2)
    parts = 4 * _PARTS * max(config.hidden_size, heads * config.head_dim)
    plain = size * (4 * config.hidden_size + heads * config.head_dim + config.intermediate_size)
    return bucket.rows * (attention + parts + plain + size * config.vocab_size)


def resident(model: Transformer, runner: Runner) -> int:
    """Bytes of all weights in memory: the model's, and where kernels keep forms of their own, those too."""
    seen = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(model, runner)
    }
    return sum(seen.values())


def _tensors(model: Transformer, runner: Runner) -> Iterator[Tensor]:
    blocks = (
        (block.qkv, block.out, block.gate_up, block.down, *(block.adapter or ())) for block in runner.stack.blocks
    )
    for matrix in (runner.stack.head, *chain.from_iterable(blocks)):
        fields = ("values", "scales") if hasattr(matrix, "scales") else ("data",)
        yield from (getattr(matrix, name) for name in fields)
    yield from (weight.data for weight in model.parameters() if not weight.is_meta)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be had; None where memory that nobody touches costs nothing, as on CPUs."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]
