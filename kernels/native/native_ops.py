"""The ops of `kernels/reference` in C++, for fp32 on CPU, called through a plain C interface.

Knows tensor addresses. Does not know what follows where the library cannot be loaded: `Native.load` raises, and the
caller decides. Results are row-invariant without padding; docs/benchmarks.md has measurements.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from .. import block, threads
from ..blocks import Blocks
from ..layout import NO_ADAPTER, PAGE, Block, Choice, Layout, LowRank, Rotation, SampledTokens, Stack
from ..reference import torch_ops
from .bindings import (
    KINDS,
    MOST_TERMS,
    SIGNATURES,
    FinalStep,
    Matrix,
    Pass,
    Shape,
    Term,
    Wanted,
    Weights,
    library,
)
from .packed import Packed, Packer

_LARGEST_HEAD: Final = 512


class Native:
    """The compiled ops. Tensors are fp32, contiguous and on the CPU."""

    row_tile: int
    queued: bool
    exact: bool
    packing: str
    """Name of the form that matrices are packed in: another one for other sources, compilers and processors."""

    name = "native"

    def __init__(self, library: ctypes.CDLL) -> None:
        self.row_tile, self.queued, self.exact = 1, False, True
        self._library = library
        for name, kinds in SIGNATURES.items():
            getattr(library, name).argtypes = [KINDS[kind] for kind in kinds]
        library.strip_width.restype = ctypes.c_int64
        self.packer: Packer = Packer(library)
        self.packing = f"{self.name}-{Path(library._name).stem}"

    @staticmethod
    @cache
    def load() -> Native:
        """Loads the library, compiling it unless an earlier process did. Raises NativeUnavailable."""
        return Native(library())

    def prepare(self, weight: Tensor | Blocks) -> Packed:
        return self.packer.packed(weight)

    def prepare_adapter(self, terms: Sequence[LowRank], outputs: int) -> tuple[LowRank, ...]:
        """Packs the terms one by one: each writes its own columns of the product's `outputs`."""
        del outputs
        return tuple(LowRank(term.first, self.packer.packed(term.low), self.packer.packed(term.high)) for term in terms)

    def linear(self, x: Tensor, weight: Packed, onto: Tensor | None = None) -> Tensor:
        y = x.new_empty(x.shape[0], weight.outputs) if onto is None else onto
        assert x.is_contiguous()
        assert x.shape[1] == weight.inputs
        self._library.linear(
            x.data_ptr(), x.shape[0], weight.data.data_ptr(), weight.kind, weight.inputs, weight.outputs, y.data_ptr(),
            onto is not None, threads.count(),
        )  # fmt: skip
        return y

    def lookup(self, weight: Packed | Tensor, ids: Tensor) -> Tensor:
        """Returns the rows [T, in] of a matrix, as fp32."""
        if isinstance(weight, Tensor):
            # Not by torch, because its threads would spin on for a while beside those of the pass.
            return torch.from_numpy(weight.detach().numpy()[ids.numpy()])
        y = torch.empty(ids.shape[0], weight.inputs)
        at = ids.contiguous()
        self._library.lookup(
            weight.data.data_ptr(), weight.kind, weight.inputs, at.data_ptr(), at.shape[0], y.data_ptr(),
            threads.count(),
        )  # fmt: skip
        return y

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, groups: int = 1) -> Tensor:
        assert x.is_contiguous()
        y = torch.empty_like(x)
        self._library.rms_norm(x.data_ptr(), x.shape[0], x.shape[1], groups, weight.data_ptr(), eps, y.data_ptr())
        return y

    def swiglu(self, both: Tensor) -> Tensor:
        assert both.is_contiguous()
        y = both.new_empty(both.shape[0], both.shape[1] // 2)
        self._library.silu_mul(both.data_ptr(), both.shape[0], y.shape[1], y.data_ptr())
        return y

    def rotate_heads(self, x: Tensor, cos: Tensor, sin: Tensor, heads: int, queries: int, scale: Tensor | None) -> None:
        assert x.is_contiguous()
        rows, count, dim = x.shape
        self._library.rotate(
            x.data_ptr(), rows, count, dim, cos.data_ptr(), sin.data_ptr(), heads, queries, _maybe(scale)
        )

    def keep(self, x: Tensor, queries: int, keys: Tensor, values: Tensor, layout: Layout) -> None:
        rows, count, dim = x.shape
        self._library.keep(
            x.data_ptr(), rows, count, dim, queries, keys.shape[1], layout.slot.data_ptr(), PAGE, keys.data_ptr(),
            values.data_ptr(),
        )  # fmt: skip

    def attention(self, x: Tensor, queries: int, keys: Tensor, values: Tensor, layout: Layout) -> Tensor:
        rows, count, dim = x.shape
        assert dim <= _LARGEST_HEAD
        out = x.new_empty(rows, queries, dim)
        self._library.attention(
            x.data_ptr(), rows, count, queries, keys.shape[1], dim, PAGE, keys.data_ptr(), values.data_ptr(),
            layout.tables.data_ptr(), layout.tables.shape[1], layout.request.data_ptr(), layout.seen.data_ptr(),
            layout.own_first.data_ptr(), layout.own_count.data_ptr(), out.data_ptr(), threads.count(),
        )  # fmt: skip
        return out

    def forward(
        self, x: Tensor, stack: Stack, rotation: Rotation, flags: Tensor | None, keys: Tensor, values: Tensor,
        layout: Layout, read: Tensor, choices: Sequence[Choice],
    ) -> tuple[Tensor, list[SampledTokens]]:  # fmt: skip
        """Runs a pass in one call, so that the interpreter lock is released and taken once. Overwrites x.

        Choices of one row without filters are made in the same call, tokens without confidence; the others by `choose`.
        """
        first, head = stack.blocks[0], stack.head
        if "native" not in first.cache:
            weights = (Weights * len(stack.blocks))(*map(_pointers, stack.blocks))
            first.cache["native"] = weights, _matrix(head), max(map(_rank, stack.blocks))
        weights, matrix, rank = first.cache["native"]
        shape, batch, scratch = _prepared(x, first, rank, rotation, flags, layout)
        logits = x.new_empty(read.shape[0], head.outputs)
        final = FinalStep(
            stack.norm.data_ptr(), matrix, head.outputs, read.shape[0], read.data_ptr(), logits.data_ptr()
        )
        plain = [choice for choice in choices if _plain(choice)]
        noises = [choice.sampling.noise(choice.positions) for choice in plain]
        masks = [next(iter(choice.masks), None) for choice in plain]
        wanted = (Wanted * len(plain))(*map(_wanted, plain, masks, noises))
        self._library.forward(
            ctypes.addressof(shape), ctypes.addressof(weights), len(stack.blocks), ctypes.addressof(batch),
            x.data_ptr(), keys.data_ptr(), values.data_ptr(), keys.stride(0), scratch.data_ptr(),
            ctypes.addressof(final), ctypes.addressof(wanted), len(plain),
        )  # fmt: skip
        found = iter(wanted)
        return logits, [
            SampledTokens([next(found).token], []) if _plain(choice) else self.choose(logits, [choice])[0]
            for choice in choices
        ]

    def choose(self, logits: Tensor, choices: Sequence[Choice]) -> list[SampledTokens]:
        return block.choose(self, logits, choices)

    def sample_rows(
        self,
        logits: Tensor,
        banned: Tensor,
        allowed: Tensor | None,
        noise: Tensor | None,
        temperature: float,
        top_k: int,
        top_p: float,
    ) -> tuple[Tensor, Tensor]:
        """Runs the head epilogue; with filters it calls the reference, because they sort, which torch does well."""
        if noise is not None and (top_k or top_p < 1):
            return torch_ops.sample_rows(logits, banned, allowed, noise, temperature, top_k, top_p)
        rows, vocab = logits.shape
        logits = logits.contiguous()
        tokens, confidence = torch.empty(rows, dtype=torch.int64), torch.empty(rows)
        self._library.sample_rows(
            logits.data_ptr(), rows, vocab, banned.data_ptr(), _maybe(allowed),
            0 if allowed is None else allowed.shape[1], _maybe(noise),
            temperature, tokens.data_ptr(), confidence.data_ptr(),
        )  # fmt: skip
        return tokens, confidence

    def gumbel(self, seed: int, positions: Tensor, vocab_size: int) -> Tensor:
        """Returns the bits of `reference.gumbel`."""
        noise = torch.empty(positions.shape[0], vocab_size)
        at = positions.contiguous()
        signed = (seed + 2**63) % 2**64 - 2**63
        self._library.gumbel(signed, at.data_ptr(), at.shape[0], vocab_size, noise.data_ptr())
        return noise


def _prepared(
    x: Tensor, weights: Block, rank: int, rotation: Rotation, flags: Tensor | None, layout: Layout
) -> tuple[Shape, Pass, Tensor]:
    """Returns what all blocks of a pass share: sizes, pointers, scratch memory. `weights`: any one of the blocks;
    `rank`: the largest of all their adapters."""
    (rows, width), heads, groups, dim = x.shape, weights.queries, weights.groups, weights.dim
    inner = weights.down.inputs
    shape = Shape(
        rows, width, heads, groups, dim, inner, PAGE, weights.norm_groups, weights.eps, threads.count()
    )  # fmt: skip
    scratch = x.new_empty(rows * (width + 2 * (heads + groups) * dim + 3 * inner + MOST_TERMS * rank))
    batch = Pass(
        rotation.cos.data_ptr(), rotation.sin.data_ptr(), _maybe(rotation.scale), _maybe(flags),
        *(column.data_ptr() for column in (layout.tables, layout.request, layout.seen, layout.own_first)),
        layout.own_count.data_ptr(), layout.slot.data_ptr(), layout.tables.shape[1],
    )  # fmt: skip
    return shape, batch, scratch


def _pointers(weights: Block) -> Weights:
    matrices, adapter = (weights.qkv, weights.out, weights.gate_up, weights.down), weights.adapter or NO_ADAPTER
    return Weights(
        *(norm.data_ptr() for norm in weights.norms),
        *map(_maybe, weights.head_norms or (None, None)),
        *map(_matrix, matrices),
        _terms(adapter.qkv), _terms(adapter.out), _terms(adapter.gate_up), _terms(adapter.down),
    )  # fmt: skip


def _terms(terms: Sequence[LowRank]) -> Any:
    """Returns the C array of a product's terms; those behind the last one have rank 0."""
    found = (Term * MOST_TERMS)()
    for at, term in enumerate(terms):
        low, high = term.low, term.high
        found[at] = Term(_matrix(low), _matrix(high), low.outputs, term.first, high.outputs)
    return found


def _rank(weights: Block) -> int:
    """Returns the largest rank of the block's terms."""
    return max((matrix.outputs for matrix in (weights.adapter or NO_ADAPTER).matrices[::2]), default=0)


def _matrix(packed: Packed) -> Matrix:
    return Matrix(packed.data.data_ptr(), packed.kind)


def _plain(choice: Choice) -> bool:
    return len(choice.positions) == 1 and not choice.sampling.filters


def _wanted(choice: Choice, mask: Tensor | None, noise: Tensor | None) -> Wanted:
    return Wanted(
        None, choice.banned.data_ptr(), _maybe(mask), _maybe(noise), 0, choice.sampling.temperature, choice.row
    )


def _maybe(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()
