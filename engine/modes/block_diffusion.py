"""Block diffusion for weights trained on aligned blocks (SDAR): causal between blocks, bidirectional inside, without a

causal first token.

Knows one request. Does not know the model. Blocks are counted from position 0, so the tokens of a prompt's last,
unfinished block open the first one, with masks after them. Slots are filled and gated as in `diffusion.py`, each read
at its own position. One pass writes a full block to the cache as soon as the output continues after it; tokens of an
unfinished block are not cached.
"""

from __future__ import annotations

from ..decoding.run import DecodeState
from ..decoding.segment import Passes
from ..options import AlignedOptions
from .diffusion import fill


def decode(run: DecodeState, options: AlignedOptions) -> Passes:
    while run.in_section:
        forced = run.force()
        if forced is None:
            return
        passes = yield from run.write(options.block_length)
        if forced or passes:
            run.output.commit(run.mode, forced, "f" * len(forced), forward_passes=passes)
        if run.in_section:
            yield from fill(run, options.block_length - len(run.pending), options)
