"""The entry point to tensor functions: which implementation serves a device and dtype, under which name.

Knows implementations by name. Does not know models. Every implementation has the functions of `reference` with the same
arguments. Training, which needs gradients, uses the reference's plain functions from here; decoding uses what `kernels`
returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from .agreement import disagreement
from .blocks import FORMS, Blocks, Form, finite, from_blocks, joined_blocks
from .layout import (
    PAGE,
    Adapter,
    Block,
    Choice,
    Layout,
    LowRank,
    Rotation,
    SampledTokens,
    SamplingParams,
    Stack,
)
from .native import rounding
from .native.build import NativeUnavailable, cache_folder, processor
from .native.native_ops import Native
from .native.pack_file import PackFile, PackFileUnusable
from .native.pack_file import remove_superseded as remove_superseded_pack_files
from .native.pack_file import write as write_pack_file
from .native.packed import Packed
from .quantize import PRECISIONS, Precision, quantize, rounded
from .reference import torch_fast, torch_ops
from .reference.noise import gumbel
from .reference.torch_ops import linear, rms_norm, rotate, silu_mul
from .threads import begin_in_child
from .transfer import copy_into, int64_tensor, to_device

__all__ = [
    "CHOICES",
    "FORMS",
    "PAGE",
    "PRECISIONS",
    "Adapter",
    "Block",
    "Blocks",
    "Choice",
    "Form",
    "Kernels",
    "Layout",
    "LowRank",
    "NativeUnavailable",
    "PackFile",
    "PackFileUnusable",
    "Packed",
    "PendingTokens",
    "Precision",
    "QueuedKernels",
    "Rotation",
    "SampledTokens",
    "SamplingParams",
    "Stack",
    "StaticSampler",
    "TritonUnavailable",
    "begin_in_child",
    "cache_folder",
    "check_forms",
    "copy_into",
    "disagreement",
    "finite",
    "from_blocks",
    "gumbel",
    "int64_tensor",
    "joined_blocks",
    "kernels",
    "linear",
    "processor",
    "quantize",
    "remove_superseded_pack_files",
    "rms_norm",
    "rotate",
    "rounded",
    "silu_mul",
    "to_device",
    "write_pack_file",
]  # fmt: skip

CHOICES = ("auto", "native", *rounding.ROUNDINGS, "triton", "torch", "torch-fast")


class Kernels(Protocol):
    """What decoding needs, documented in `reference` and `block`.

    `row_tile`: a pass's rows are padded to a multiple of it. `queued`: a pass waits for nothing until its tokens are
    read, so that a graph can capture it, and all tokens that it can choose are best requested together. `packing`: the
    name of the form that it packs matrices in, which may be `Blocks` too, for a file to keep (`native.packed`), by its
    `packer`; empty if it takes them as they are. `exact`: the implementation promises row invariance, the same bits for
    a row whatever else is in the batch.
    """

    @property
    def name(self) -> str: ...
    @property
    def row_tile(self) -> int: ...
    @property
    def queued(self) -> bool: ...
    @property
    def packing(self) -> str: ...
    @property
    def packer(self) -> Any: ...
    @property
    def exact(self) -> bool: ...
    def prepare(self, weight: Tensor, /) -> Any: ...
    def lookup(self, weight: Any, ids: Tensor, /) -> Tensor: ...
    def prepare_adapter(self, terms: Sequence[LowRank], outputs: int, /) -> tuple[LowRank, ...]: ...
    def linear(self, x: Tensor, weight: Any, onto: Tensor | None = None, /) -> Tensor: ...
    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, groups: int = 1, /) -> Tensor: ...
    def swiglu(self, both: Tensor, /) -> Tensor: ...
    def rotate_heads(
        self, x: Tensor, cos: Tensor, sin: Tensor, heads: int, queries: int, scale: Tensor | None, /
    ) -> None: ...
    def keep(self, x: Tensor, queries: int, keys: Tensor, values: Tensor, layout: Layout, /) -> None: ...
    def attention(self, x: Tensor, queries: int, keys: Tensor, values: Tensor, layout: Layout, /) -> Tensor: ...
    def forward(
        self,
        x: Tensor,
        stack: Stack,
        rotation: Rotation,
        flags: Tensor | None,
        keys: Tensor,
        values: Tensor,
        layout: Layout,
        read: Tensor,
        choices: Sequence[Choice],
        /,
    ) -> tuple[Tensor, list[SampledTokens]]: ...
    def choose(self, logits: Tensor, choices: Sequence[Choice], /) -> list[SampledTokens]: ...
    def gumbel(self, seed: int, positions: Tensor, vocab_size: int, /) -> Tensor: ...


class PendingTokens(Protocol):
    """Tokens queued on a device: [R] int64, there."""

    @property
    def tokens(self) -> Tensor: ...


class StaticSampler(Protocol):
    """Token choice from logits [R, V] at a fixed address; a graph captures `launch` only.

    `empty` or `load` comes first: `load` copies in what `choices` ask of the first rows, in order, with their masks,
    padded to `rows`. `result` returns a copy of the chosen tokens, because the next launch overwrites them.
    """

    @property
    def nbytes(self) -> int: ...
    def empty(self, rows: int, /) -> None: ...
    def load(self, choices: Sequence[Choice], rows: int, /) -> None: ...
    def launch(self, rows: int, /) -> None: ...
    def result(self, choices: Sequence[Choice], rows: int, /) -> PendingTokens: ...


class QueuedKernels(Kernels, Protocol):
    """Kernels that are `queued`: `begin` queues token choices without waiting, `read` waits once for all of them."""

    def begin(self, logits: Tensor, choices: Sequence[Choice], /) -> PendingTokens: ...
    def read(self, begun: Sequence[PendingTokens], /) -> list[list[SampledTokens]]: ...
    def static_sampler(self, logits: Tensor, /) -> StaticSampler: ...


class TritonUnavailable(RuntimeError):
    """Triton kernels cannot run here; the message says why."""


def kernels(
    device: torch.device, dtype: torch.dtype, choice: str = "auto", precision: Precision | None = None
) -> tuple[Kernels, str]:
    """Returns the implementation for a device and dtype, and the reason for it.

    `choice`: "auto" takes the fastest exact implementation that can run here and rounds no numbers; other names take
    that one or raise. "native-bf16" and "native-int8" round the rows of products, "torch-fast" gives up row invariance
    (see `native.rounding` and `reference.torch_fast`). `precision`: how weights are rounded, which not all of them
    take; the reason says so where that makes passes slower than whole weights do. Raises NativeUnavailable where
    "native" or one that rounds rows cannot run, TritonUnavailable where "triton" cannot.
    """
    found, why = _found(device, dtype, choice, precision)
    if precision is not None and found.name in ("torch", "torch-fast"):
        why += f"; slower than whole weights: every pass restores all of them from {precision}"
    return found, why


def check_forms(kernels: Kernels, forms: Sequence[str]) -> None:
    """Raises NativeUnavailable if the kernels round rows for weights in blocks alone, and a model has none. `forms`: of
    its matrices that are in blocks."""
    if isinstance(kernels, rounding.NativeRounded):
        kernels.check(forms)


def _found(device: torch.device, dtype: torch.dtype, choice: str, precision: Precision | None) -> tuple[Kernels, str]:
    if choice in ("torch", "torch-fast"):
        return torch_ops if choice == "torch" else cast(Kernels, torch_fast), "asked for"
    if choice == "triton" or (choice == "auto" and device.type == "cuda"):
        return _triton(device, dtype, precision), "asked for" if choice == "triton" else "the fastest here"
    insists = choice != "auto"
    if device.type != "cpu" or dtype != torch.float32:
        here = f"{str(dtype).removeprefix('torch.')} on {device}"
        if insists:
            raise NativeUnavailable(f"native kernels are for float32 on cpu, not for {here}")
        return torch_ops, f"no kernels of our own for {here}"
    if precision == "fp8" or (precision and choice == "native-bf16"):
        refused = f"{'native' if precision == 'fp8' else choice} kernels do not take weights in {precision}"
        if insists:
            raise NativeUnavailable(f"{refused}; {'triton' if precision == 'fp8' else 'native'!r} and 'torch' do")
        return torch_ops, refused
    try:
        found = rounding.load(choice) if choice in rounding.ROUNDINGS else Native.load()
        return found, "asked for" if insists else "the fastest here"
    except NativeUnavailable as error:
        if insists:
            raise
        return torch_ops, f"native kernels not available: {error}"


def _triton(device: torch.device, dtype: torch.dtype, precision: Precision | None) -> Kernels:
    """Imports the Triton ops here only, because triton is large and not on every platform. Raises TritonUnavailable."""
    if precision == "int4":
        raise TritonUnavailable("triton kernels take weights in int8 and fp8, not in int4")
    if dtype not in (torch.float32, torch.bfloat16):
        raise TritonUnavailable(f"triton kernels are for float32 and bfloat16, not for {str(dtype)[6:]}")
    try:
        from .gpu import triton_ops
    except ImportError as error:
        raise TritonUnavailable(f"triton cannot be imported: {error}") from None
    if device.type != "cuda" and not triton_ops.INTERPRETED:
        raise TritonUnavailable(f"triton kernels need a CUDA device, not {device}; TRITON_INTERPRET=1 interprets them")
    return cast(Kernels, triton_ops)
