"""Tile sizes of a product of T rows with a matrix [out, in], and which of them may depend on T.

Knows sizes and dtypes only. An output is one sum over `in`, so its bits follow from `step`, `chunk` and `split` alone;
these depend on the matrix and the dtypes only. `rows`, `outputs`, `warps` and `stages` decide which outputs share a
program and how far ahead it loads: they may depend on T.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

OUTPUTS: Final = 64
"""Outputs of the smallest tile: the rows of one warpgroup matrix instruction."""
_PROGRAMS: Final = 256
"""Programs that a pass of few rows should have at least: about two for each multiprocessor of an H100 or H200."""
LEAST: Final = 512
"""Inputs that a program should add at least; below that, starting it costs more than it saves."""
_MOST_PARTS: Final = 8


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tile sizes: a program adds `chunk` inputs in steps of `step`, for `rows` x `outputs` results.

    `split` programs share an output.
    """

    step: int
    chunk: int
    split: int
    rows: int
    outputs: int
    warps: int
    stages: int


def tiles(rows: int, outputs: int, inputs: int, values: torch.dtype, single: bool = False) -> Tiles:
    """Returns the tiles for `rows` rows and a matrix [outputs, inputs] of dtype `values`. `single`: without a split.

    Some epilogues need the whole sum in one program.
    """
    step = {1: 128, 2: 64}.get(values.itemsize, 32)
    steps = -(-inputs // step)
    wanted = 1 if single else -(-_PROGRAMS // -(-outputs // OUTPUTS))
    parts = max(1, min(wanted, inputs // LEAST, _MOST_PARTS))
    chunk = -(-steps // parts) * step
    # Weights in eight bits are widened in registers, which leaves fewer registers for sums.
    tall = min(64 if values.itemsize == 1 else 128, max(16, 1 << (rows - 1).bit_length()))
    wide = rows > 64 and values.itemsize < 4
    return Tiles(
        step=step,
        chunk=chunk,
        split=-(-inputs // chunk),
        rows=tall,
        outputs=2 * OUTPUTS if wide else OUTPUTS,
        warps=8 if wide else 4,
        stages=4 if rows <= 64 else 3,
    )
