"""Who checks finished values: jsonschema, in the draft that a schema names, from what stands in the schema alone.

Knows jsonschema and where Python's numbers differ from JSON's. Fetches nothing. Does not know grammars.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import jsonschema
import jsonschema.protocols
import jsonschema.validators
from referencing.exceptions import Unresolvable

from .common_form import has_nullable, to_common_form
from .document import ALONE, draft_of

Json = Any


def oracle_of(document: dict[str, Json]) -> jsonschema.protocols.Validator:
    """A validator of `document`, in which OpenAPI's `nullable` means what it says."""
    draft = draft_of(document)
    kind: Any = jsonschema.validators.extend(draft, {"multipleOf": _multiple})  # type: ignore[no-untyped-call]
    meant = to_common_form(document).document if has_nullable(document) else document
    oracle: jsonschema.protocols.Validator = kind(meant, format_checker=kind.FORMAT_CHECKER, registry=ALONE)
    return oracle


def wrong_with(oracle: jsonschema.protocols.Validator, value: Json) -> str | None:
    """What the oracle has against `value`, in words."""
    try:
        wrong = next(iter(oracle.iter_errors(value)), None)
    except Unresolvable as error:
        return f"jsonschema cannot follow a reference: {error}"
    return None if wrong is None else f"jsonschema at {wrong.json_path}: {wrong.message}"


def _multiple(_: Any, step: float, value: Json, __: Json) -> Iterator[jsonschema.ValidationError]:
    """multipleOf on decimal digits: in binary, 2.4 is no multiple of 0.1."""
    if isinstance(value, int | float) and not isinstance(value, bool) and _exact(value) % _exact(step):
        yield jsonschema.ValidationError(f"{value!r} is not a multiple of {step!r}")


def _exact(number: float) -> Fraction:
    return Fraction(number) if isinstance(number, int) else Fraction(repr(number))
