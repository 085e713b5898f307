"""The decoding modes: one file each, whose `decode` is a generator that yields segments and receives logits.

Knows options classes. Does not know the model or the schedule. `decode` here maps a mode's options to its function.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from ..decoding.run import DecodeState
from ..decoding.segment import Passes, Reply, Segment
from ..decoding.state import CacheState
from ..options import (
    AdaptiveOptions,
    AlignedOptions,
    ArOptions,
    DiffusionOptions,
    InfillOptions,
    LinearSpecOptions,
    LookupSpecOptions,
    Options,
    QuadraticSpecOptions,
    SectionOptions,
)
from ..scoring import QuestionsRequest, ScoreRequest, Scoring, TokenLogprobsRequest
from . import (
    adaptive,
    ar,
    block_diffusion,
    choice,
    diffusion,
    infill,
    linear_spec,
    lookup_spec,
    quadratic_spec,
    questions,
    sections,
    token_logprobs,
)


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
        case SectionOptions():
            return sections.decode(run, options, decode)


def score(context: CacheState, request: Scoring, ends: Sequence[int]) -> Generator[Segment, Reply, Any]:
    """Returns the passes of a request that decodes nothing."""
    match request:
        case ScoreRequest():
            return choice.score(context, request.candidates, ends)
        case TokenLogprobsRequest():
            return token_logprobs.score(context, request.tokens, request.top)
        case QuestionsRequest():
            return questions.score(context, request.questions, ends)
        case _:
            raise TypeError(f"no mode scores a {type(request).__name__}")
