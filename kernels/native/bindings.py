"""The C interface of native.cpp: its functions' arguments, its structures, and the loaded library.

Knows ctypes. Does not know tensors.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

from .build import NativeUnavailable, compiled

KINDS: Final[dict[str, Any]] = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "f": ctypes.c_float, "i": ctypes.c_int}
SIGNATURES: Final = {
    "strip_width": "",
    "multiplies_bf16": "",
    "multiplies_int8": "",
    "packed_bytes": "nnn",
    "pack": "pnnnpi",
    "lookup": "pnnpnpi",
    "digest": "pn",
    "linear": "pnpnnnpii",
    "rms_norm": "pnnnpfp",
    "silu_mul": "pnnp",
    "rotate": "pnnnppnnp",
    "keep": "pnnnnnpnpp",
    "attention": "pnnnnnnpppnpppppi",
    "sample_rows": "pnnppnpfpp",
    "forward": "ppnppppnpppn",
    "gumbel": "npnnp",
}
"""Arguments of native.cpp's functions: pointers, int64, float, int."""


class Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("T", "E", "H", "K", "D", "I", "page", "norm_groups")),
        ("eps", ctypes.c_float),
        ("threads", ctypes.c_int),
    ]


class Matrix(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("kind", ctypes.c_int64)]


MOST_TERMS: Final = 3
"""Terms that the draft adapter has at most at one product: of queries, keys and values."""


class Term(ctypes.Structure):
    _fields_ = [
        *((name, Matrix) for name in ("low", "high")),
        *((name, ctypes.c_int64) for name in ("rank", "first", "outputs")),
    ]


class Weights(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("norm", "norm2", "q_norm", "k_norm")),
        *((name, Matrix) for name in ("qkv", "out", "gate_up", "down")),
        *((f"{name}_terms", Term * MOST_TERMS) for name in ("qkv", "out", "gate_up", "down")),
    ]


class Pass(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in (
                "cos", "sin", "scale", "flags", "tables", "request", "seen", "own_first", "own_count", "slot",
            )
        ),
        ("tiles", ctypes.c_int64),
    ]  # fmt: skip


class FinalStep(ctypes.Structure):
    _fields_ = [
        ("norm", ctypes.c_void_p), ("head", Matrix), ("vocab", ctypes.c_int64), ("reads", ctypes.c_int64),
        ("read", ctypes.c_void_p), ("logits", ctypes.c_void_p),
    ]  # fmt: skip


class Wanted(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("logits", "banned", "allowed", "noise")),
        ("vocab", ctypes.c_int64),
        ("temperature", ctypes.c_float),
        ("row", ctypes.c_int64),
        ("token", ctypes.c_int64),
    ]


def library() -> ctypes.CDLL:
    """Loads the compiled library. Raises NativeUnavailable."""
    try:
        return ctypes.CDLL(str(compiled()))
    except OSError as error:
        raise NativeUnavailable(f"the compiled kernels cannot be loaded: {error}") from None
