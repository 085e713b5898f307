"""Errors with their place in a schema: pointer, keyword, and a readable path.

Knows paths and error classes. Does not know what is checked.
"""

from __future__ import annotations

from ..errors import MalformedSchema, SchemaRefused, SchemaTooComplex
from .document import Where, pointer


def not_json(where: Where, hint: str) -> SchemaRefused:
    """MalformedSchema at `where`."""
    return MalformedSchema(pointer(where), keyword_of(where), path_of(where), hint)


def path_of(where: Where) -> str:
    """The readable form of a path, such as `$.properties['a b']`."""
    parts = (f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{step!r}]" for step in where)
    return ascii("$" + "".join(parts))[1:-1][:300]


def too_complex(where: Where, hint: str) -> SchemaRefused:
    """SchemaTooComplex at `where`."""
    return SchemaTooComplex(pointer(where), keyword_of(where), hint)


def keyword_of(where: Where) -> str:
    """The last key of a path."""
    return next((step for step in reversed(where) if isinstance(step, str)), "")


def short(text: str) -> str:
    """The first 200 characters of the first line."""
    return text.splitlines()[0][:200] if text else text
