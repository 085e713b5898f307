"""The memory that an engine needs of its device, added up before it is allocated: weights, cache, buffers, graphs.

Knows sizes. Does not know requests. Weights are in memory already; the memory inside graphs is an estimate.
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
"""Bytes that the driver keeps for a graph of some hundred launches: an estimate not yet confirmed on a device."""
_WIDTH = 17
"""Splits of the keys that attention of a row may have."""
_PARTS = 8
"""Parts of a product that a row may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Bytes. `weights` are allocated already; `graphs` is an upper estimate of what passes work in."""

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
        """Raises DeviceMemoryExceeded if the device reports less free memory."""
        free = free_bytes(device)
        if free is not None and self.pages + self.buffers + self.graphs > free:
            raise DeviceMemoryExceeded(str(device), free + self.weights, self.parts)


def planned(model: Transformer, runner: Runner, kv_bytes: int, buckets: Buckets | None) -> Plan:
    """Returns the plan of an engine on this runner; `buckets`: None if no pass is captured."""
    size = page_bytes(runner.config, runner.dtype)
    pages = kv_bytes // size
    captured = [] if buckets is None else listed(runner, pages, buckets)
    return Plan(
        weights=resident(model, runner),
        pages=pages * size,
        buffers=Buffers(runner, captured, torch.device("meta")).nbytes if captured else 0,
        graphs=max((working(runner, bucket) for bucket in captured), default=0)
        + _EACH_GRAPH * (len(captured) + len(counted(runner, captured))),
    )


def working(runner: Runner, bucket: Bucket) -> int:
    """Returns the bytes of a pass besides its buffers: an upper bound of what is alive at a time, without sharing."""
    config, size = runner.config, runner.dtype.itemsize
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    splits = min(_WIDTH, -(-bucket.tiles * PAGE // 256) + 1)
    attention = 4 * config.num_attention_heads * splits * (config.head_dim + 2)
    parts = 4 * _PARTS * max(config.hidden_size, heads * config.head_dim)
    plain = size * (4 * config.hidden_size + heads * config.head_dim + config.intermediate_size)
    return bucket.rows * (attention + parts + plain + size * config.vocab_size)


def resident(model: Transformer, runner: Runner) -> int:
    """Returns the bytes of all weights in memory: the model's, and the kernels' own forms of them."""
    seen = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(model, runner)
    }
    return sum(seen.values())


def _tensors(model: Transformer, runner: Runner) -> Iterator[Tensor]:
    blocks = (
        (block.qkv, block.out, block.gate_up, block.down, *(block.adapter.matrices if block.adapter else ()))
        for block in runner.stack.blocks
    )
    table = () if isinstance(runner.table, Tensor) else (runner.table,)
    for matrix in (*table, runner.stack.head, *chain.from_iterable(blocks)):
        fields = ("values", "scales") if hasattr(matrix, "scales") else ("data",)
        yield from (getattr(matrix, name) for name in fields)
    yield from (weight.data for weight in model.parameters() if not weight.is_meta)


def free_bytes(device: torch.device) -> int | None:
    """Returns the bytes that are still free; None on CPUs, where untouched memory costs nothing."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]
