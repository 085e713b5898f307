"""The questions of a recorded decision, which its record has in place of a schema.

Knows records. Does not know engines, or how questions are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .record import CallRecord


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """`options`: what could be answered, as texts; `candidates`: the same as token ids; `tokens`: the question's.
    Both are empty where a server made the tokens."""

    options: tuple[str, ...]
    tokens: tuple[int, ...] = ()
    candidates: tuple[tuple[int, ...], ...] = ()


_ADAPTER: TypeAdapter[list[AskedQuestion]] = TypeAdapter(list[AskedQuestion])


def is_decision(record: CallRecord) -> bool:
    return record.kind == "choice" and "questions" in record.options


def asked_questions(record: CallRecord) -> Sequence[AskedQuestion]:
    """Returns a decision's questions; none for another call, or where the record has no content or a false one."""
    schema: Any = record.schema if is_decision(record) else None
    try:
        return _ADAPTER.validate_python(schema.get("questions") if isinstance(schema, dict) else [])
    except ValidationError:
        return []
