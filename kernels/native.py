"""The ops of `reference.py` in C++, for fp32 on CPU: compiled on first use, called through a plain C interface.

Knows the compiler, the library file and tensor addresses. Needs g++ or clang++; where there is none, `Native.load` says
so and the caller decides. Results are row-invariant without padding; docs/benchmarks.md has what that is worth.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from . import reference
from .layout import PAGE, Block, Layout, Rotation

SOURCE: Final = Path(__file__).with_name("native.cpp")
FLAGS: Final = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")
_LARGEST_HEAD: Final = 512


_KINDS: Final[dict[str, Any]] = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "f": ctypes.c_float, "i": ctypes.c_int}
_SIGNATURES: Final = {
    "strip_width": "",
    "linear": "pnpnnnpii",
    "rms_norm": "pnnpfp",
    "silu_mul": "pnnp",
    "rotate": "pnnnppnnp",
    "keep": "pnnnnnpnpp",
    "attention": "pnnnnnnpppnpppppi",
    "pick": "pnnppnpfpp",
    "blocks": "ppnppppnp",
}
"""Arguments of native.cpp's functions: pointers, int64, float, int."""


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("T", "E", "H", "K", "D", "I", "rank", "page")),
        ("eps", ctypes.c_float),
        ("threads", ctypes.c_int),
    ]


class _Matrix(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("half", ctypes.c_int64)]


class _Weights(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("norm", "norm2", "q_norm", "k_norm")),
        *((name, _Matrix) for name in ("qkv", "out", "gate_up", "down", "low", "high")),
    ]


class _Pass(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in (
                "cos", "sin", "scale", "flags", "tables", "request", "seen", "own_first", "own_count", "slot",
            )
        ),
        ("tiles", ctypes.c_int64),
    ]  # fmt: skip


class NativeUnavailable(RuntimeError):
    """The kernels cannot be compiled or loaded here; the message says why."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix [out, in] in strips: data [ceil(out / block), in, block], zero behind the last output.

    bf16 where every weight is a bf16 number anyway, as in a checkpoint that is stored so: half the bytes to read for
    products of the same bits, because expanding is exact.
    """

    data: Tensor
    inputs: int
    outputs: int

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    @property
    def half(self) -> bool:
        return self.data.dtype == torch.bfloat16


class Native:
    """The compiled ops. Tensors are fp32, contiguous and on the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.name, self.row_tile = "native", 1
        self._library = library
        for name, kinds in _SIGNATURES.items():
            getattr(library, name).argtypes = [_KINDS[kind] for kind in kinds]
        library.strip_width.restype = ctypes.c_int64
        self._strip: int = library.strip_width()

    @staticmethod
    @cache
    def load() -> Native:
        """Compiles, or finds what an earlier process compiled. Raises NativeUnavailable."""
        try:
            return Native(ctypes.CDLL(str(_compiled())))
        except OSError as error:
            raise NativeUnavailable(f"the compiled kernels cannot be loaded: {error}") from None

    def prepare(self, weight: Tensor) -> Packed:
        outputs, inputs = weight.shape
        data = torch.zeros(-(-outputs // self._strip) * self._strip, inputs)
        data[:outputs] = weight
        half = data.to(torch.bfloat16)
        kept = half if torch.equal(half.float(), data) else data
        return Packed(kept.view(-1, self._strip, inputs).transpose(1, 2).contiguous(), inputs, outputs)

    def linear(self, x: Tensor, weight: Packed, onto: Tensor | None = None) -> Tensor:
        y = x.new_empty(x.shape[0], weight.outputs) if onto is None else onto
        assert x.is_contiguous()
        assert x.shape[1] == weight.inputs
        self._library.linear(
            x.data_ptr(), x.shape[0], weight.data.data_ptr(), weight.half, weight.inputs, weight.outputs, y.data_ptr(),
            onto is not None, torch.get_num_threads(),
        )  # fmt: skip
        return y

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        assert x.is_contiguous()
        y = torch.empty_like(x)
        self._library.rms_norm(x.data_ptr(), x.shape[0], x.shape[1], weight.data_ptr(), eps, y.data_ptr())
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
            layout.own_first.data_ptr(), layout.own_count.data_ptr(), out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return out

    def blocks(
        self, x: Tensor, blocks: Sequence[Block], rotation: Rotation, flags: Tensor | None, keys: Tensor,
        values: Tensor, layout: Layout,
    ) -> Tensor:  # fmt: skip
        """x [T, E] after all transformer blocks, in place; one call, so that the interpreter is asked for once."""
        first = blocks[0]
        if "native" not in first.cache:
            first.cache["native"] = (_Weights * len(blocks))(*map(_pointers, blocks))
        shape, made, scratch = _prepared(x, first, rotation, flags, layout)
        self._library.blocks(
            ctypes.addressof(shape), ctypes.addressof(first.cache["native"]), len(blocks), ctypes.addressof(made),
            x.data_ptr(), keys.data_ptr(), values.data_ptr(), keys.stride(0), scratch.data_ptr(),
        )  # fmt: skip
        return x

    def pick(
        self,
        logits: Tensor,
        banned: Tensor,
        allowed: Tensor | None,
        noise: Tensor | None,
        temperature: float,
        top_k: int,
        top_p: float,
    ) -> tuple[Tensor, Tensor]:
        """Filters sort, which torch does well: a call with one takes the reference."""
        if noise is not None and (top_k or top_p < 1):
            return reference.pick(logits, banned, allowed, noise, temperature, top_k, top_p)
        rows, vocab = logits.shape
        logits = logits.contiguous()
        tokens, confidence = torch.empty(rows, dtype=torch.int64), torch.empty(rows)
        self._library.pick(
            logits.data_ptr(), rows, vocab, banned.data_ptr(), _maybe(allowed),
            0 if allowed is None else allowed.shape[1], _maybe(noise),
            temperature, tokens.data_ptr(), confidence.data_ptr(),
        )  # fmt: skip
        return tokens, confidence

    gumbel = staticmethod(reference.gumbel)


def _prepared(
    x: Tensor, weights: Block, rotation: Rotation, flags: Tensor | None, layout: Layout
) -> tuple[_Shape, _Pass, Tensor]:
    """What all blocks of a pass share: sizes, pointers, scratch memory. `weights`: any one of them."""
    (rows, width), heads, groups, dim = x.shape, weights.queries, weights.groups, weights.dim
    inner = weights.down.inputs
    rank = 0 if weights.adapter is None else weights.adapter[0].outputs
    shape = _Shape(rows, width, heads, groups, dim, inner, rank, PAGE, weights.eps, torch.get_num_threads())
    scratch = x.new_empty(rows * (width + 2 * (heads + groups) * dim + 3 * inner + rank))
    made = _Pass(
        rotation.cos.data_ptr(), rotation.sin.data_ptr(), _maybe(rotation.scale), _maybe(flags),
        *(column.data_ptr() for column in (layout.tables, layout.request, layout.seen, layout.own_first)),
        layout.own_count.data_ptr(), layout.slot.data_ptr(), layout.tables.shape[1],
    )  # fmt: skip
    return shape, made, scratch


def _pointers(weights: Block) -> _Weights:
    matrices = (weights.qkv, weights.out, weights.gate_up, weights.down, *(weights.adapter or (None, None)))
    return _Weights(
        *(norm.data_ptr() for norm in weights.norms),
        *map(_maybe, weights.head_norms or (None, None)),
        *(_Matrix(None, 0) if matrix is None else _Matrix(matrix.data.data_ptr(), matrix.half) for matrix in matrices),
    )


def _maybe(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def cache_folder() -> Path:
    """Where this package keeps what it can make again: `TRIMODE_CACHE`, or ~/.cache/trimode."""
    return Path(os.environ.get("TRIMODE_CACHE") or Path.home() / ".cache" / "trimode")


def processor() -> str:
    """What the processor is and can do, as -march=native sees it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


def _compiled() -> Path:
    """The library, keyed by source, flags, compiler and processor."""
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NativeUnavailable("no C++ compiler here (g++ or clang++, or the one that CXX names)")
    key = hashlib.sha256(
        "\0".join((SOURCE.read_text(), *FLAGS, compiler, platform.machine(), processor())).encode()
    ).hexdigest()[:16]
    library = cache_folder() / f"native-{key}.so"
    if not library.exists():
        _compile(compiler, library)
    return library


def _compile(compiler: str, library: Path) -> None:
    """Writes beside and renames, so that processes that start together do not read half a file."""
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(made)], check=True, capture_output=True, text=True)
            made.replace(library)
    except OSError as error:
        raise NativeUnavailable(f"cannot write {library}: {error}") from None
    except subprocess.CalledProcessError as error:
        raise NativeUnavailable(f"{compiler} failed: {error.stderr.strip()[-500:]}") from None
