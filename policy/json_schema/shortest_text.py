"""A short valid text of a schema, derived from its keywords, so that a first completion seldom needs a search.

Knows keywords and references. Does not know grammars: the text is a guess that the grammar then accepts or refuses.
There is no guess where keywords cannot be combined.
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
"""A schema without references and combinations, and the references that were followed to it."""
_STEPS: Final = 2000
"""Number of steps of the derivation (see `Document.spend`)."""
_FORMS: Final = 8
"""Number of forms of one schema that are tried."""
_VALUES: Final = 100
"""Number of listed values that are tried."""
_LONGEST: Final = 16_000
"""Characters of the text of an array or an object."""
_PADDED: Final = 8
"""Characters up to which a string is padded with one letter; longer padding repeats the filler."""
_RUN: Final = re.compile(rf"([a-z])\1{{{_PADDED},}}")
"""A long run of one letter."""
_EVERY: Final = ("string", "object", "array", "null", "boolean", "integer", "number")


def shortest(document: Json, filler: str = "a") -> str | None:
    """Canonical JSON text that probably fits a document in normal form; None where none is found quickly.

    `filler`: the padding of strings with a minimum length, preferably the text of one long token.
    """
    try:
        return _Derivation(Document(document, _STEPS), filler).value(document, frozenset())
    except (OutOfSteps, RecursionError):
        return None


class _Derivation:
    """Derives short texts of the parts of one document. Recursive references are skipped: no shortest text has one."""

    def __init__(self, document: Document, filler: str) -> None:
        self._document, self._filler = document, filler
        self._kinds: dict[str, Callable[[dict[str, Json], frozenset[str]], str | None]] = {
            "string": lambda form, _: _string(form, filler), "object": self._object, "array": self._array,
            "null": lambda *_: "null", "boolean": lambda *_: "true",
            "integer": lambda form, _: _number(form, whole=True), "number": lambda form, _: _number(form, whole=False),
        }  # fmt: skip

    def value(self, schema: Json, followed: frozenset[str]) -> str | None:
        """The shortest text of a part; None without any. `followed`: references on the path to it."""
        self._document.spend()
        return _shortest(self._text(*form) for form in self._forms(schema, followed))

    def _forms(self, schema: Json, followed: frozenset[str]) -> list[Form]:
        """Forms of a schema, one for each combination of its alternatives."""
        self._document.spend()
        if not isinstance(schema, dict):
            return [] if schema is False else [({}, followed)]
        forms: list[Form] = [({key: value for key, value in schema.items() if key in _READ}, followed)]
        for choices in _choices(schema):
            found: list[Form] = []
            for form, before in forms:
                for part, after in self._chosen(choices, before):
                    both = _both(form, part)
                    found += [(both, after)] if both is not None else []
            forms = found[:_FORMS]
        return forms

    def _chosen(self, choices: list[Json] | str, followed: frozenset[str]) -> Iterator[Form]:
        """The forms of alternatives, or of the target of a reference."""
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
        """The shortest text of a form; None without any."""
        if "const" in form or "enum" in form:
            values = form["enum"] if "const" not in form else [form["const"]]
            return _shortest(map(_json, values[:_VALUES]))
        named = form.get("type", _EVERY)
        kinds = [named] if isinstance(named, str) else named
        if "string" in kinds and "type" not in form:  # other keywords do not restrict strings
            return _string(form, self._filler)
        return _shortest(self._kinds[kind](form, followed) for kind in kinds)

    def _object(self, form: dict[str, Json], followed: frozenset[str]) -> str | None:
        properties, required = form.get("properties", {}), form.get("required", ())
        more = form.get("minProperties", 0) - len(set(required))
        unnamed = [name for name in dict.fromkeys(required) if name not in properties]
        members = dict[str, str]()
        for name in (*properties, *unnamed):
            if name not in required and more <= 0:
                continue
            schema = properties[name] if name in properties else self._unnamed(form, name)
            text = self.value(schema, followed)
            if text is not None:
                members[name] = text
                more -= name not in required
            elif name in required:
                return None
        pairs = ",".join(f"{_json(name)}:{text}" for name, text in members.items())
        return f"{{{pairs}}}" if more <= 0 and len(pairs) <= _LONGEST else None

    def _unnamed(self, form: dict[str, Json], name: str) -> Json:
        """The schema of a property that is not in `properties`."""
        patterned = form.get("patternProperties", {})
        found = [schema for pattern, schema in patterned.items() if self._document.matches(pattern, name)]
        return {"allOf": found} if found else form.get("additionalProperties", True)

    def _array(self, form: dict[str, Json], followed: frozenset[str]) -> str | None:
        items, listed, least = form.get("items", True), form.get("prefixItems", ()), int(form.get("minItems", 0))
        listed = listed if isinstance(listed, list) else ()  # not a keyword of older drafts
        if isinstance(items, list):
            items, listed = form.get("additionalItems", True), items
        first = [self.value(item, followed) for item in listed[:least]]
        rest = [self.value(items, followed)] if least > len(first) else []
        if least > _LONGEST or None in first or None in rest:
            return None
        texts = [*first, *rest * (least - len(first))]
        content = ",".join(text for text in texts if text is not None)
        return f"[{content}]" if len(content) <= _LONGEST else None


def _choices(schema: dict[str, Json]) -> Iterator[list[Json] | str]:
    """What a value must fit besides a schema's own keywords: one of several schemas each, or a reference."""
    if "$ref" in schema:
        yield schema["$ref"]
    for part in schema.get("allOf", ()):
        yield [part]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            yield schema[key]


def _string(form: dict[str, Json], filler: str) -> str | None:
    """A short string that probably fits, as JSON."""
    least, most = int(form.get("minLength", 0)), form.get("maxLength", _LONGEST)
    if "pattern" in form:
        texts = sorted(_varied(form["pattern"], samples(form["pattern"]), filler), key=len)
    else:
        texts = [FORMATS.get(form.get("format", ""), "")]
    padded = (text + _padding(least - len(text), filler) for text in texts)
    return next((_json(text) for text in padded if len(text) <= most), None)


def _varied(pattern: str, texts: list[str], filler: str) -> list[str]:
    """Each text with its long runs of one letter replaced by the filler, where the pattern matches the result."""
    varied = (_RUN.sub(lambda run: _padding(len(run[0]), filler), text) for text in texts)
    slow = is_slow(pattern)
    return [
        other if other != text and not slow and re.search(pattern, other) else text
        for text, other in zip(texts, varied, strict=True)
    ]


def _padding(length: int, filler: str) -> str:
    """Padding of `length` characters. Raises OutOfSteps where that is too long."""
    if length > _LONGEST:
        raise OutOfSteps
    return "a" * length if length <= _PADDED else (filler * (1 + length // len(filler)))[:length]


def _number(form: dict[str, Json], whole: bool) -> str | None:
    """The shortest of the numbers 0, those nearest to the bounds, and the middle between two bounds."""
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
    return _shortest(_digits(one) for one in fitting)


def _bound(form: dict[str, Json], key: str, exclusive: str) -> tuple[Fraction | None, bool]:
    """The bound on one side, and whether it is exclusive. In draft 4 the second keyword is a flag."""
    plain, strict = form.get(key), form.get(exclusive)
    if isinstance(strict, bool) or strict is None:
        return (None if plain is None else Fraction(str(plain))), bool(strict)
    tighter = plain is None or (strict >= plain if exclusive == "exclusiveMinimum" else strict <= plain)
    return Fraction(str(strict if tighter else plain)), tighter


def _above(number: Fraction, bound: tuple[Fraction | None, bool]) -> bool:
    """Whether a number is within a lower bound."""
    least, exclusive = bound
    return least is None or number > least or (number == least and not exclusive)


def _digits(number: Fraction) -> str:
    return str(int(number)) if number.denominator == 1 else json.dumps(float(number))


def _shortest(texts: Iterator[str | None]) -> str | None:
    """The shortest text; None without any."""
    return min((text for text in texts if text is not None), key=len, default=None)


def _json(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _both(one: dict[str, Json], other: dict[str, Json]) -> dict[str, Json] | None:
    """The conjunction of two forms; None where two keywords cannot be combined."""
    result = dict(one)
    for key, value in other.items():
        if key not in result or result[key] == value:
            result[key] = value
        elif (join := _JOINED.get(key)) is None:
            return None
        else:
            result[key] = join(result[key], value)
    return result


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
"""How two values of a keyword are combined."""
_READ: Final = frozenset(
    (*_JOINED, "const", "pattern", "format", "multipleOf", "prefixItems", "additionalItems", "patternProperties")
)
"""Keywords that forms keep."""
