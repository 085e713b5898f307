"""The decoding modes: one file each, whose `decode` is a generator that yields segments and receives logits.

Knows options classes. Does not know the model or the schedule. `decode` here maps a mode's options to its function.
"""

from __future__ import annotations

from ..decoding.run import DecodeState
from ..decoding.segment import Passes
from ..request import (
    AdaptiveOptions,
    AlignedOptions,
    ArOptions,
    DiffusionOptions,
    InfillOptions,
    LinearSpecOptions,
    LookupSpecOptions,
    Options,
    QuadraticSpecOptions,
)
from . import adaptive, ar, block_diffusion, diffusion, infill, linear_spec, lookup_spec, quadratic_spec


def decode(run: DecodeState, options: Options) -> Passes:
    match options:
        case ArOptions():
            return ar.decode(run)
        case DiffusionOptions():
            return diffusion.decode(run, options)
        case AlignedOptions():
            return block_diffusion.decode(run, options)
        case LinearSpecOptions():
            return linear_spec.decode(run, options)
        case QuadraticSpecOptions():
            return quadratic_spec.decode(run, options)
        case LookupSpecOptions():
            return lookup_spec.decode(run, options)
        case InfillOptions():
            return infill.decode(run, options)
        case AdaptiveOptions():
            return adaptive.decode(run, options, decode)
