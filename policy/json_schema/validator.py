"""Validator of finished values: jsonschema, in the schema's draft, without other documents.

Knows jsonschema, and where Python's numbers differ from JSON's. Does not know grammars.
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
from .document import NO_DOCUMENTS, draft_of

Json = Any


def validator_of(document: dict[str, Json]) -> jsonschema.protocols.Validator:
    """The validator of a document, in which OpenAPI's `nullable` has its meaning."""
    draft = draft_of(document)
    kind: Any = jsonschema.validators.extend(draft, {"multipleOf": _multiple})  # type: ignore[no-untyped-call]
    schema = to_common_form(document).document if has_nullable(document) else document
    validator: jsonschema.protocols.Validator = kind(schema, format_checker=kind.FORMAT_CHECKER, registry=NO_DOCUMENTS)
    return validator


def violation(validator: jsonschema.protocols.Validator, value: Json) -> str | None:
    """The validator's first error for `value`, with its place; None where it is valid."""
    try:
        found = next(iter(validator.iter_errors(value)), None)
    except Unresolvable as error:
        return f"jsonschema cannot follow a reference: {error}"
    return None if found is None else f"jsonschema at {found.json_path}: {found.message}"


def _multiple(_: Any, step: float, value: Json, __: Json) -> Iterator[jsonschema.ValidationError]:
    """Checks `multipleOf` on decimal digits, because in binary 2.4 is no multiple of 0.1."""
    if isinstance(value, int | float) and not isinstance(value, bool) and _exact(value) % _exact(step):
        yield jsonschema.ValidationError(f"{value!r} is not a multiple of {step!r}")


def _exact(number: float) -> Fraction:
    return Fraction(number) if isinstance(number, int) else Fraction(repr(number))
