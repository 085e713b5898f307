"""Choice steps: the strings that a schema allows, the likeliest of them as an output, and notes on unused settings.

Knows schemas of strings, scores, settings and results. Does not know how candidates are scored.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

from trimode.engine.result import DecodeResult, Round, ScoreResult
from trimode.engine.scoring import ScoreRequest

from ..errors import StepError
from ..schema import Choice, Target
from ..selection import Settings


def candidates_of(schema: Target | None) -> tuple[str, ...]:
    """Returns the strings that `schema` lists. Raises StepError for a schema that is not a list of distinct strings."""
    if isinstance(schema, Choice):
        return schema.options
    document: Any = {} if schema is None else schema.document
    values = [document["const"]] if "const" in document else document.get("enum", [])
    strings = tuple(value for value in values if isinstance(value, str) and value)
    if not strings or len(set(strings)) < len(values):
        raise StepError(
            "a choice is one of different, non-empty strings: annotate the step with a Literal of strings or an Enum "
            f"of them, or with str and pass choices=[...]; found {json.dumps(document)[:200]}"
        )
    return strings


def best(scored: ScoreResult) -> int:
    """Returns the index of the likeliest candidate, the first one on a tie."""
    return scored.logprobs.index(max(scored.logprobs))


def decoded(request: ScoreRequest, scored: ScoreResult, text: str, end: int) -> DecodeResult:
    """Returns the choice as an output: the candidate's tokens and an end token, all of provenance "c" (the model)."""
    tokens = (*request.candidates[best(scored)], end)
    origins, passes = "c" * len(tokens), scored.stats.forward_passes
    return DecodeResult(
        token_ids=tokens,
        text=text,
        finish_reason="stop",
        rounds=(Round(mode="choice", tokens=tokens, origins=origins, forward_passes=passes),),
        stats=replace(scored.stats, output_tokens=len(tokens), corrected=len(tokens)),
    )


_OF_OTHER_MODES: Final = ("block_length", "threshold", "selection", "rows", "min_match", "exact_first", "deadline")


def unused(settings: Settings) -> list[str]:
    """Returns notes on settings that were given and do not affect a choice."""
    ignored = {
        "mode": None if settings.mode == "ar" else settings.mode,
        "temperature": settings.temperature or None,
        "top_k": settings.top_k or None,
        "top_p": None if settings.top_p == 1 else settings.top_p,
        "stop": settings.stop or None,
        "max_thinking_tokens": settings.max_thinking_tokens,
        "logit_bias": settings.given().get("logit_bias"),
        **{name: getattr(settings, name) for name in _OF_OTHER_MODES},
    }
    return [
        f"{name}={given!r} has no part in a choice: candidates are scored as ar writes them at temperature 1"
        for name, given in ignored.items()
        if given is not None
    ]


def unused_in_infill(settings: Settings) -> list[str]:
    """Returns notes on settings that any layer gave and that do not affect filling one block."""
    names = (
        "block_length", "selection", "rows", "min_match", "exact_first", "max_thinking_tokens", "stop", "deadline",
        "logit_bias",
    )  # fmt: skip
    return [
        f"{name}={given!r} has no part in an infill: one block is filled between two texts"
        for name in names
        if (given := getattr(settings, name)) or given is False
    ]
