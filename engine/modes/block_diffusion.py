"""Block diffusion for weights trained on aligned blocks (SDAR): causal between blocks, both ways inside, no seed.

Blocks are counted from position 0, so what a prompt leaves over of its last block opens the first one as known tokens,
with masks behind. Slots are filled and gated as in `diffusion.py`, each read at its own position. A full block is
written to the cache by one pass, as soon as the output goes on behind it; nothing of an unfinished block is cached.
"""

from __future__ import annotations

from ..request import AlignedOptions
from ..run import Run
from ..segment import Passes
from .diffusion import Block


def decode(run: Run, options: AlignedOptions) -> Passes:
    while run.output.finish is None:
        forced = run.force()
        if forced is None:
            return
        passes = yield from run.write(options.block_length)
        if forced or passes:
            run.output.commit(run.mode, forced, "f" * len(forced), forward_passes=passes)
        if run.output.finish is None:
            yield from fill(run, options)


def fill(run: Run, options: AlignedOptions) -> Passes:
    """Fills the block that the pending tokens open, until it is full, ended or out of budget, and commits it."""
    block = Block(run.gate, [None] * (options.block_length - len(run.pending)), options.threshold)
    while not block.done and len(block.tokens) < run.output.room:
        block.denoise((yield run.block(block.slots)).branches[0])
        run.tentative = tuple(block.slots)
    block.close()
    run.tentative = ()
    run.pending += block.tokens
    run.output.commit(
        run.mode,
        block.tokens,
        block.origins,
        drafted=block.drafted,
        rejected=block.rejected,
        forward_passes=len(block.fills),
        fills=block.fills,
    )
