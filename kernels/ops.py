"""The one door to tensor functions: which implementation serves a device and dtype, under which name.

Every implementation has the functions of `reference`, with the same arguments. Training, which needs gradients, takes
the reference's plain functions from here; decoding takes what `kernels` returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from . import fast, reference
from .build import NativeUnavailable, cache_folder, processor
from .layout import PAGE, Block, Choice, Layout, Rotation, Stack
from .native import Native
from .reference import gumbel, linear, rms_norm, rotate, silu_mul

__all__ = [
    "CHOICES", "PAGE", "Block", "Choice", "Kernels", "Layout", "NativeUnavailable", "Rotation", "Stack", "cache_folder",
    "gumbel", "kernels", "linear", "processor", "rms_norm", "rotate", "silu_mul",
]  # fmt: skip

CHOICES = ("auto", "native", "torch", "torch-fast")


class Kernels(Protocol):
    """What decoding needs, documented in `reference` and `block`. `row_tile`: rows of a pass are a multiple of it."""

    @property
    def name(self) -> str: ...
    @property
    def row_tile(self) -> int: ...
    def prepare(self, weight: Tensor, /) -> Any: ...
    def linear(self, x: Tensor, weight: Any, onto: Tensor | None = None, /) -> Tensor: ...
    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, /) -> Tensor: ...
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
    ) -> tuple[Tensor, list[int]]: ...
    def pick(
        self,
        logits: Tensor,
        banned: Tensor,
        allowed: Tensor | None,
        noise: Tensor | None,
        temperature: float,
        top_k: int,
        top_p: float,
        /,
    ) -> tuple[Tensor, Tensor]: ...


def kernels(device: torch.device, dtype: torch.dtype, choice: str = "auto") -> tuple[Kernels, str]:
    """The implementation for a device and dtype, and why it is this one.

    `choice`: "auto" takes the fastest exact one that can run here, the others insist; "torch-fast" gives up that a row
    is the same in any company (see `fast`). Raises NativeUnavailable where "native" cannot run.
    """
    if choice in ("torch", "torch-fast"):
        return reference if choice == "torch" else cast(Kernels, fast), "asked for"
    if device.type != "cpu" or dtype != torch.float32:
        here = f"{str(dtype).removeprefix('torch.')} on {device}"
        if choice == "native":
            raise NativeUnavailable(f"native kernels are for float32 on cpu, not for {here}")
        return reference, f"no kernels of our own for {here}"
    try:
        return Native.load(), "asked for" if choice == "native" else "the fastest here"
    except NativeUnavailable as error:
        if choice == "native":
            raise
        return reference, f"native kernels not available: {error}"
