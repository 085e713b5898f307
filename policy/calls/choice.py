"""Choice steps: which strings a schema allows, and the likeliest of them as an output; what infills leave unused.

Knows schemas of strings, scores and results. Does not know how candidates are scored.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from trimode.engine.request import ScoreRequest
from trimode.engine.result import DecodeResult, Round, ScoreResult

from ..errors import StepError
from ..schema import Choice, Target
from ..selection import Settings


def candidates_of(schema: Target | None) -> tuple[str, ...]:
    """The strings that `schema` lists. Raises StepError where it is anything but a list of different strings."""
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
    """The likeliest candidate; the first of equals."""
    return scored.logprobs.index(max(scored.logprobs))


def decoded(request: ScoreRequest, scored: ScoreResult, text: str, end: int) -> DecodeResult:
    """The choice as an output: the candidate's tokens and an end token, all of them the model's own choice."""
    tokens = (*request.candidates[best(scored)], end)
    origins, passes = "c" * len(tokens), scored.stats.forward_passes
    return DecodeResult(
        token_ids=tokens,
        text=text,
        finish_reason="stop",
        rounds=(Round(mode="choice", tokens=tokens, origins=origins, forward_passes=passes),),
        stats=replace(scored.stats, output_tokens=len(tokens), corrected=len(tokens)),
    )


def unused(settings: Settings) -> list[str]:
    """Notes on what was said and has no part in a choice."""
    idle = {
        "mode": None if settings.mode == "ar" else settings.mode,
        "temperature": settings.temperature or None,
        "top_k": settings.top_k or None,
        "top_p": None if settings.top_p == 1 else settings.top_p,
        "stop": settings.stop or None,
        "max_thinking_tokens": settings.max_thinking_tokens,
        **{name: getattr(settings, name) for name in ("block_length", "threshold", "selection", "rows", "deadline")},
    }
    return [
        f"{name}={said!r} has no part in a choice: candidates are scored as ar writes them at temperature 1"
        for name, said in idle.items()
        if said is not None
    ]


def unused_in_infill(settings: Settings) -> list[str]:
    """Notes on what was said, by whatever layer, and has no part in filling one block."""
    names = ("block_length", "selection", "rows", "max_thinking_tokens", "stop", "deadline")
    return [
        f"{name}={said!r} has no part in an infill: one block is filled between two texts"
        for name in names
        if (said := getattr(settings, name))
    ]
