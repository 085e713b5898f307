"""Block diffusion for weights trained on aligned blocks (SDAR): causal between blocks, both ways inside, no seed.

Blocks are counted from position 0, so what a prompt leaves over of its last block opens the first one as known tokens,
with masks behind. Slots are filled and gated as in `diffusion.py`, each read at its own position. A full block is
written to the cache by one pass, as soon as the output goes on behind it; nothing of an unfinished block is cached.
"""

from __future__ import annotations

from ..decoding.run import DecodeState
from ..decoding.segment import Passes
from ..request import AlignedOptions
from .diffusion import fill


def decode(run: DecodeState, options: AlignedOptions) -> Passes:
    while run.output.finish is None:
        forced = run.force()
        if forced is None:
            return
        passes = yield from run.write(options.block_length)
        if forced or passes:
            run.output.commit(run.mode, forced, "f" * len(forced), forward_passes=passes)
        if run.output.finish is None:
            yield from fill(run, options.block_length - len(run.pending), options)
