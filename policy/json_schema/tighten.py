"""What the grammar engine reads more loosely than those who read the output later, said so that all read it alike.

Knows schema documents and which formats differ; `dialect` knows patterns, `numeric` numbers. llguidance lets a leap
second, 29 February of any year and durations of any size pass; jsonschema's and pydantic's readers do not. `tightened`
adds a pattern there, so that what the grammar allows is valid for all of them.
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


def tightened(schema: Any) -> Any:
    """`schema` with a pattern beside each of these formats, and patterns and numbers that all readers read alike."""
    if isinstance(schema, list):
        return [tightened(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = bounded({key: _below(key, value) for key, value in schema.items()})
    if isinstance(made.get("pattern"), str):
        made["pattern"] = narrowed(made["pattern"], quoted=True)
    if isinstance(made.get("patternProperties"), dict):
        made["patternProperties"] = _renamed(made)
    format = schema.get("format")
    if isinstance(format, str) and format in PATTERNS and isinstance(made.get("allOf", []), list):
        made["allOf"] = [*made.get("allOf", ()), {"pattern": PATTERNS[format]}]
    return made


def _renamed(schema: dict[str, Any]) -> dict[str, Any]:
    """The patterns of keys. One that all keys fit need not take what only some readers say that it matches."""
    made: dict[str, Any] = {}
    patterned = schema["patternProperties"]
    alone = len(patterned) == 1 and schema.get("additionalProperties") is False and not schema.get("properties")
    free = schema.get("additionalProperties", True) in (True, {})
    for pattern, child in patterned.items():
        name = narrowed(pattern, quoted=True) if alone else of_names(pattern, wide=free)
        while name in made:  # another spelling of the same pattern
            name = f"(?:{name})"
        made[name] = child
    return made


def _below(key: str, value: Any) -> Any:
    if key in VALUES:
        return constant(value)
    if key in NAMED and isinstance(value, dict):
        return {name: tightened(child) for name, child in value.items()}
    return tightened(value)
