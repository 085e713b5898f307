"""Tightening of keywords that llguidance reads more loosely than the validators of the output.

Knows schema documents and the formats that differ; `regex_dialect.py` knows patterns, `number_ranges.py` numbers. Does
not know grammars. llguidance allows leap seconds, 29 February of any year and durations of any size, which jsonschema
and pydantic refuse; `tightened` adds a pattern there, so that whatever the grammar allows is valid.
"""

from __future__ import annotations

from typing import Any, Final

from .document import NAMED, VALUES
from .number_ranges import bounded, constant
from .regex_dialect import narrowed, of_names

_YEAR: Final = r"(?:[1-9]\d{3}|0[1-9]\d{2}|00[1-9]\d|000[1-9])"
_LEAP: Final = r"(?:\d{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_LONG: Final = r"(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])"
_SHORT: Final = r"(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
_DATE: Final = rf"(?:{_YEAR}-(?:{_LONG}|{_SHORT}|02-(?:0[1-9]|1\d|2[0-8]))|{_LEAP}-02-29)"
_TIME: Final = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:[zZ]|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
PATTERNS: Final = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}[tT]{_TIME}$",
    "duration": r"^[PT]+(?:\d{1,6}[YMWDHST]+)+$",
}
"""Patterns that formats must match in addition to llguidance's own rules."""


def tightened(schema: Any) -> Any:
    """`schema` with a pattern next to each format of `PATTERNS`, and patterns and numbers that all read alike."""
    if isinstance(schema, list):
        return [tightened(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = bounded({key: _below(key, value) for key, value in schema.items()})
    if isinstance(result.get("pattern"), str):
        result["pattern"] = narrowed(result["pattern"], quoted=True)
    if isinstance(result.get("patternProperties"), dict):
        result["patternProperties"] = _renamed(result)
    format = schema.get("format")
    if isinstance(format, str) and format in PATTERNS and isinstance(result.get("allOf", []), list):
        result["allOf"] = [*result.get("allOf", ()), {"pattern": PATTERNS[format]}]
    return result


def _renamed(schema: dict[str, Any]) -> dict[str, Any]:
    """`patternProperties` with patterns that all dialects read alike.

    A pattern that all keys must match is narrowed; one next to free keys is widened (see `of_names`).
    """
    result: dict[str, Any] = {}
    patterned = schema["patternProperties"]
    alone = len(patterned) == 1 and schema.get("additionalProperties") is False and not schema.get("properties")
    unconstrained = schema.get("additionalProperties", True) in (True, {})
    for pattern, child in patterned.items():
        name = narrowed(pattern, quoted=True) if alone else of_names(pattern, wide=unconstrained)
        while name in result:  # two patterns may be narrowed to the same text
            name = f"(?:{name})"
        result[name] = child
    return result


def _below(key: str, value: Any) -> Any:
    if key in VALUES:
        return constant(value)
    if key in NAMED and isinstance(value, dict):
        return {name: tightened(child) for name, child in value.items()}
    return tightened(value)
