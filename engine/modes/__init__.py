"""The decoding modes: generator functions that yield segments and receive logits, one file each.

`decode` is the one place where a mode's options find its function.
"""

from __future__ import annotations

from ..request import ArOptions, DiffusionOptions, LinearSpecOptions, Options
from ..run import Run
from ..segment import Passes
from .ar import ar
from .diffusion import diffusion
from .linear_spec import linear_spec

__all__ = ["ar", "decode", "diffusion", "linear_spec"]


def decode(run: Run, options: Options) -> Passes:
    match options:
        case ArOptions():
            return ar(run)
        case DiffusionOptions():
            return diffusion(run, options)
        case LinearSpecOptions():
            return linear_spec(run, options)
