"""A short text that a schema takes, read off its keywords, so that a grammar's first ending seldom has to be searched.

Knows keywords and references. Does not know grammars: what it gives is a guess, on which a grammar has the last word.
Where keywords stand side by side that it cannot add up, it gives none.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Final

from .document import Document, OutOfSteps
from .pattern_samples import FORMATS, samples
from .regex_dialect import is_slow

Json = Any
Form = tuple[dict[str, Json], frozenset[str]]
"""A schema without references and combinations, and the references that led there."""
_STEPS: Final = 2000
_FORMS: Final = 8
"""Of the ways to fulfil one schema, those that are looked at."""
_VALUES: Final = 100
"""Of a list of values, those that are looked at."""
_LONGEST: Final = 16_000
"""Characters of what a list or an object holds."""
_PADDED: Final = 8
"""Characters that are filled up with a letter; more take longer tokens."""
_RUN: Final = re.compile(rf"([a-z])\1{{{_PADDED},}}")
_EVERY: Final = ("string", "object", "array", "null", "boolean", "integer", "number")


def shortest(document: Json, filler: str = "a") -> str | None:
    """Canonical JSON text that may fit a document in normal form; None where nothing short is found quickly.

    `filler`: what strings of a least length are made of, best a text that is one long token.
    """
    try:
        return _Guess(Document(document, _STEPS), filler).value(document, frozenset())
    except (OutOfSteps, RecursionError):
        return None


class _Guess:
    """Texts of the parts of one document. What is shortest never holds a reference inside of itself."""

    def __init__(self, document: Document, filler: str) -> None:
        self._document, self._filler = document, filler
        self._kinds: dict[str, Callable[[dict[str, Json], frozenset[str]], str | None]] = {
            "string": lambda form, _: _string(form, filler), "object": self._object, "array": self._array,
            "null": lambda *_: "null", "boolean": lambda *_: "true",
            "integer": lambda form, _: _number(form, whole=True), "number": lambda form, _: _number(form, whole=False),
        }  # fmt: skip

    def value(self, schema: Json, followed: frozenset[str]) -> str | None:
        """A text of a part; `followed`: references on the way there."""
        self._document.spend()
        return _least(self._text(*form) for form in self._forms(schema, followed))

    def _forms(self, schema: Json, followed: frozenset[str]) -> list[Form]:
        """Ways to fulfil a schema, each without references and combinations."""
        self._document.spend()
        if not isinstance(schema, dict):
            return [] if schema is False else [({}, followed)]
        forms: list[Form] = [({key: value for key, value in schema.items() if key in _READ}, followed)]
        for choices in _choices(schema):
            found: list[Form] = []
            for form, behind in forms:
                for part, way in self._chosen(choices, behind):
                    both = _both(form, part)
                    found += [(both, way)] if both is not None else []
            forms = found[:_FORMS]
        return forms

    def _chosen(self, choices: list[Json] | str, followed: frozenset[str]) -> Iterator[Form]:
        """The forms of alternatives, or of what a reference leads to."""
        if not isinstance(choices, str):
            for choice in choices[:_FORMS]:
                yield from self._forms(choice, followed)
        elif choices not in followed:
            try:
                target = self._document.at(choices)
            except (LookupError, TypeError, ValueError):
                return
            yield from self._forms(target, followed | {choices})

    def _text(self, form: dict[str, Json], followed: frozenset[str]) -> str | None:
        if "const" in form or "enum" in form:
            values = form["enum"] if "const" not in form else [form["const"]]
            return _least(map(_written, values[:_VALUES]))
        named = form.get("type", _EVERY)
        kinds = [named] if isinstance(named, str) else named
        if "string" in kinds and "type" not in form:  # other keywords say nothing about a string
            return _string(form, self._filler)
        return _least(self._kinds[kind](form, followed) for kind in kinds)

    def _object(self, form: dict[str, Json], followed: frozenset[str]) -> str | None:
        properties, required = form.get("properties", {}), form.get("required", ())
        more = form.get("minProperties", 0) - len(set(required))
        unnamed = [name for name in dict.fromkeys(required) if name not in properties]
        held = dict[str, str]()
        for name in (*properties, *unnamed):
            if name not in required and more <= 0:
                continue
            schema = properties[name] if name in properties else self._unnamed(form, name)
            text = self.value(schema, followed)
            if text is not None:
                held[name] = text
                more -= name not in required
            elif name in required:
                return None
        pairs = ",".join(f"{_written(name)}:{text}" for name, text in held.items())
        return f"{{{pairs}}}" if more <= 0 and len(pairs) <= _LONGEST else None

    def _unnamed(self, form: dict[str, Json], name: str) -> Json:
        """What holds for a property that an object does not name."""
        patterned = form.get("patternProperties", {})
        found = [schema for pattern, schema in patterned.items() if self._document.matches(pattern, name)]
        return {"allOf": found} if found else form.get("additionalProperties", True)

    def _array(self, form: dict[str, Json], followed: frozenset[str]) -> str | None:
        items, listed, least = form.get("items", True), form.get("prefixItems", ()), int(form.get("minItems", 0))
        listed = listed if isinstance(listed, list) else ()  # older drafts do not know it
        if isinstance(items, list):
            items, listed = form.get("additionalItems", True), items
        first = [self.value(item, followed) for item in listed[:least]]
        rest = [self.value(items, followed)] if least > len(first) else []
        if least > _LONGEST or None in first or None in rest:
            return None
        texts = [*first, *rest * (least - len(first))]
        made = ",".join(text for text in texts if text is not None)
        return f"[{made}]" if len(made) <= _LONGEST else None


def _choices(schema: dict[str, Json]) -> Iterator[list[Json] | str]:
    """What else holds beside a schema's own keywords: one of several, or what a reference names."""
    if "$ref" in schema:
        yield schema["$ref"]
    for part in schema.get("allOf", ()):
        yield [part]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            yield schema[key]


def _string(form: dict[str, Json], filler: str) -> str | None:
    least, most = int(form.get("minLength", 0)), form.get("maxLength", _LONGEST)
    if "pattern" in form:
        texts = sorted(_wordy(form["pattern"], samples(form["pattern"]), filler), key=len)
    else:
        texts = [FORMATS.get(form.get("format", ""), "")]
    padded = (text + _filled(least - len(text), filler) for text in texts)
    return next((_written(text) for text in padded if len(text) <= most), None)


def _wordy(pattern: str, texts: list[str], filler: str) -> list[str]:
    """Each text with its long runs of one letter filled up otherwise, where the pattern takes that."""
    varied = (_RUN.sub(lambda run: _filled(len(run[0]), filler), text) for text in texts)
    slow = is_slow(pattern)
    return [
        other if other != text and not slow and re.search(pattern, other) else text
        for text, other in zip(texts, varied, strict=True)
    ]


def _filled(length: int, filler: str) -> str:
    if length > _LONGEST:
        raise OutOfSteps
    return "a" * length if length <= _PADDED else (filler * (1 + length // len(filler)))[:length]


def _number(form: dict[str, Json], whole: bool) -> str | None:
    """0, or what is nearest to it; between two bounds the middle, where the bounds themselves are out."""
    low, high = _bound(form, "minimum", "exclusiveMinimum"), _bound(form, "maximum", "exclusiveMaximum")
    step = Fraction(str(form["multipleOf"])) if "multipleOf" in form else Fraction(1)
    tries = [Fraction(0)]
    for (bound, _), rounded in ((low, math.ceil), (high, math.floor)):
        if bound is not None:
            near = rounded(bound / step)
            tries += [near * step, (near + 1) * step, (near - 1) * step]
            tries += [bound] if not whole else []
    if low[0] is not None and high[0] is not None and not whole:
        tries.append((low[0] + high[0]) / 2)
    fitting = (
        one for one in tries if _above(one, low) and _above(-one, (None if high[0] is None else -high[0], high[1]))
    )
    return _least(_digits(one) for one in fitting)


def _bound(form: dict[str, Json], key: str, exclusive: str) -> tuple[Fraction | None, bool]:
    """The bound on one side, and whether it is out itself. In old drafts the second keyword is a flag."""
    plain, strict = form.get(key), form.get(exclusive)
    if isinstance(strict, bool) or strict is None:
        return (None if plain is None else Fraction(str(plain))), bool(strict)
    beyond = plain is None or (strict >= plain if exclusive == "exclusiveMinimum" else strict <= plain)
    return Fraction(str(strict if beyond else plain)), beyond


def _above(number: Fraction, bound: tuple[Fraction | None, bool]) -> bool:
    least, out = bound
    return least is None or number > least or (number == least and not out)


def _digits(number: Fraction) -> str:
    return str(int(number)) if number.denominator == 1 else json.dumps(float(number))


def _least(texts: Iterator[str | None]) -> str | None:
    return min((text for text in texts if text is not None), key=len, default=None)


def _written(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _both(one: dict[str, Json], other: dict[str, Json]) -> dict[str, Json] | None:
    """What fits both; None where two keywords cannot be added up."""
    made = dict(one)
    for key, value in other.items():
        if key not in made or made[key] == value:
            made[key] = value
        elif (join := _JOINED.get(key)) is None:
            return None
        else:
            made[key] = join(made[key], value)
    return made


def _types(one: Json, other: Json) -> list[str]:
    left, right = ([names] if isinstance(names, str) else names for names in (one, other))
    common = [name for name in left if name in right]
    whole = "integer" in (*left, *right) and {"integer", "number"} & set(left) and {"integer", "number"} & set(right)
    return [*common, "integer"] if whole and "integer" not in common else common


def _properties(one: dict[str, Json], other: dict[str, Json]) -> dict[str, Json]:
    twice = {name: {"allOf": [one[name], other[name]]} for name in one if name in other and one[name] != other[name]}
    return {**one, **other, **twice}


_JOINED: Final[dict[str, Callable[[Json, Json], Json]]] = {
    "type": _types, "properties": _properties, "required": lambda one, other: [*one, *other],
    "enum": lambda one, other: [value for value in one if value in other],
    **dict.fromkeys(("additionalProperties", "items"), lambda one, other: {"allOf": [one, other]}),
    **dict.fromkeys(("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum"), max),
    **dict.fromkeys(("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum"), min),
}  # fmt: skip
_READ: Final = frozenset(
    (*_JOINED, "const", "pattern", "format", "multipleOf", "prefixItems", "additionalItems", "patternProperties")
)
