"""Refusals that name their place in a schema: pointer, keyword, and the path as people write it.

Knows places and error classes. Does not know what was wrong.
"""

from __future__ import annotations

from ..errors import MalformedSchema, SchemaRefused, SchemaTooComplex
from .document import Where, pointer


def not_json(where: Where, hint: str) -> SchemaRefused:
    return MalformedSchema(pointer(where), keyword_of(where), path_of(where), hint)


def path_of(where: Where) -> str:
    steps_ = (f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{step!r}]" for step in where)
    return ascii("$" + "".join(steps_))[1:-1][:300]


def too_complex(where: Where, hint: str) -> SchemaRefused:
    return SchemaTooComplex(pointer(where), keyword_of(where), hint)


def keyword_of(where: Where) -> str:
    return next((step for step in reversed(where) if isinstance(step, str)), "")


def short(text: str) -> str:
    return text.splitlines()[0][:200] if text else text
