"""Schemas of mixed keywords and texts that may or may not fit them, made up at random for `check_texts.py`.

Knows JSON's spellings and what tends to go wrong near bounds, quotes and backslashes. Does not know grammars.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from decimal import Context, Decimal
from fractions import Fraction
from random import Random
from typing import Any, Final

Json = Any
BOUNDS: Final = (
    0, 1, -1, 2, 3, 9, 10, 99, 100, 0.0, -0.0, 0.5, 1.0, 1.5, -2.5, 0.1, 0.07, 9.99, 1e-7, -1e-7, 1e-10, 123.456, 1e3,
    1e15, 1e17, 0.30000000000000004, 100.46, 5e-324, 2**53, 2**53 - 1, -(2**53), 2**60, 10**18, -(10**18),
)  # fmt: skip
EDGES: Final = (
    2**53 + 1, -(2**53) - 1, 2**62 + 1, 2**63 - 1, -(2**63), 1234567890123456789, 1e23, 9.3e18, 1e300, 2**64 - 1,
    -(2**70),
)  # fmt: skip
"""Numbers that are refused in constants, or read inwards in bounds."""
NAMES: Final = ("a", "b", "id", 'q"', "s\\", "n\n", "ä", "😀", "a/b", "c\u0001")
WORDS: Final = (
    "", "a", "ab", "id", '"', "\\", 'a"b', "a\\b", "\n", "\t", "/", "é", "😀", "\u2028", "0", "-", "2024-02-29",
    "a@b.c", "x y", "a\x7fb", "\\u0041", "\\n", "a/b", 'q"', "s\\", "12:00:00Z", "::1", "a:b",
)  # fmt: skip
ITEMS: Final = ('"', "\\\\", "/", ":", "a-z", "0-9", "A-Z", " ", r"\n", r"\t", r"\s", r"\w", r"\d", "é", "😀", ",", "{",
                "-", r"\x00-\x1f", r"\x20-\x7e", "!-#", r"\x00", r"\u0022", r"\]", "*?<>|",
                "\x7f", r"\v", r"\x01")  # fmt: skip
PIECES: Final = (
    ".", "a", "b", r"\d", r"\w", r"\s", r"\S", r"\W", r"\D", '"', r"\\", r"\.", "/", "é", r"\n", "[a-c]", '(?:a|")',
    r"\v", r"\x7f", "\x01", r"[\x1f]",
)  # fmt: skip
FORMATS: Final = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")
FRAGMENTS: Final = (
    '"', '\\"', "\\\\", "\\n", "\\t", "\\b", "\\/", "\\u0069", "\\u0022", "\\u005c", "\\u0001", "\\u000a",
    "\\ud83d\\ude00", "\\ud83d", "\\u00e9", "\n", "\t", "\x7f", "é", "😀", "/", "a", "b", "0", "1", "9", "-", ".", "e",
    "E", "+", "e5", "e999", "e-400", "9" * 310, "0" * 30, ",", ":", "{", "}", "[", "]", " ",
    "null", "true", '"id":1,', '"a":"x",',
    '"\\u0061":1,', "NaN", "Infinity",
)  # fmt: skip
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_FULL: Final = Context(prec=400)


class Made:
    """What one source of chance makes up."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice

    def schema(self, depth: int = 2) -> Json:
        kinds: list[Callable[[int], Json]] = [self._number, self._string, self._listed]
        kinds += [self._number, self._string, self._plain]
        if depth > 0:
            kinds += [self._object, self._object, self._object, self._array, self._cases, self._both]
        kind = self.dice.choice(kinds)
        return kind(depth - 1)

    def value(self, depth: int = 2) -> Json:
        pick = self.dice.randrange(8 if depth else 6)
        if pick < 3:
            return self.dice.choice((None, True, False, *BOUNDS, *EDGES))
        if pick < 6:
            return self.dice.choice(WORDS)
        if pick == 6:
            return [self.value(depth - 1) for _ in range(self.dice.randrange(3))]
        return {self.dice.choice(NAMES): self.value(depth - 1) for _ in range(self.dice.randrange(4))}

    def mutant(self, text: str, numbers: list[Json]) -> str:
        """`text` changed once or twice, or a text near one of the `numbers` of its schema."""
        for _ in range(self.dice.choice((1, 1, 2))):
            text = self.dice.choice((self._renumbered, self._respelled, self._cut, self._cut))(text, numbers)
        return text

    def near(self, number: float) -> str:
        """Digits at a number or one step beside it: a unit, a decimal digit, what a double can tell apart."""
        dice, exact = self.dice, Fraction(repr(number)) if isinstance(number, float) else Fraction(number)
        exact += dice.choice((0, 0, 1, -1, Fraction(1, 2))) * Fraction(1, 10 ** dice.choice((0, 0, 1, 2, 15, 17, 20)))
        if dice.random() < 0.2:
            exact = Fraction(math.nextafter(float(number), dice.choice((-math.inf, math.inf))))
        text = format(_FULL.divide(Decimal(exact.numerator), Decimal(exact.denominator)), "f")
        text = text.rstrip("0").rstrip(".") if "." in text else text
        end = dice.randrange(8)
        return text + (
            "" if end > 3 else ("0" * 3 if "." in text else ".0", "e0", "" if "." in text else ".00", "E+1")[end]
        )

    def _number(self, _: int) -> Json:
        made: dict[str, Json] = {"type": self.dice.choice(("number", "number", "integer", ["integer", "null"]))}
        low = self._bound()
        if self.dice.random() < 0.6:
            made[self.dice.choice(("minimum", "exclusiveMinimum"))] = low
        if self.dice.random() < 0.6:
            high = self.dice.choice((low + 1, low + 0.5, low + abs(self._bound()), self._bound()))
            made[self.dice.choice(("maximum", "exclusiveMaximum"))] = high
        if self.dice.random() < 0.2:
            made["multipleOf"] = self.dice.choice((0.1, 0.01, 0.5, 0.25, 1.5, 2, 3, 7, 1000))
        return made

    def _bound(self) -> float:
        dice = self.dice
        if dice.random() < 0.6:
            return dice.choice(BOUNDS if dice.random() < 0.9 else EDGES)
        return round(dice.uniform(-10, 10), dice.randint(0, 9)) * 10 ** dice.choice((0, 0, 0, 3, -5))

    def _string(self, _: int) -> Json:
        made: dict[str, Json] = {"type": "string"}
        if self.dice.random() < 0.75:
            made["pattern"] = self._pattern()
        elif self.dice.random() < 0.4:
            made["format"] = self.dice.choice(FORMATS)
        if self.dice.random() < 0.25:
            made["minLength"] = self.dice.randrange(3)
        if self.dice.random() < 0.25:
            made["maxLength"] = made.get("minLength", 0) + self.dice.randrange(4)
        return made

    def _pattern(self) -> str:
        dice = self.dice
        made = ""
        for _ in range(dice.choice((1, 1, 2, 3))):
            inside = "".join(dice.choice(ITEMS) for _ in range(dice.randint(1, 4)))
            piece = dice.choice((f"[^{inside}]", f"[^{inside}]", f"[{inside}]", dice.choice(PIECES)))
            made += piece + dice.choice(("", "", "*", "+", "?", "{1,3}"))
        made = f"{made}|{dice.choice(PIECES)}" if dice.random() < 0.1 else made
        return dice.choice(("^%s$", "^%s$", "^%s$", "^%s", "%s$", "%s", "^(?:%s)$")) % made

    def _listed(self, _: int) -> Json:
        values = [self.value() for _ in range(self.dice.choice((1, 1, 2, 3)))]
        return {"const": values[0]} if self.dice.random() < 0.4 else {"enum": values}

    def _plain(self, _: int) -> Json:
        return self.dice.choice(({}, {"type": "number"}, {"type": "integer"}, {"type": "string"}, {"type": "boolean"},
                                 True, {"type": "object"}, {"type": "array"}))  # fmt: skip

    def _object(self, depth: int) -> Json:
        dice = self.dice
        names = dice.sample(NAMES, dice.randrange(4))
        made: dict[str, Json] = {"type": "object", "properties": {name: self.schema(depth) for name in names}}
        if dice.random() < 0.5:
            made["required"] = dice.sample(NAMES, 1) if dice.random() < 0.2 else names[: dice.randrange(3)]
        if dice.random() < 0.7:
            made["additionalProperties"] = dice.choice((False, False, True, self.schema(depth)))
        if dice.random() < 0.2:
            made["patternProperties"] = {self._pattern(): self.schema(0)}
        if dice.random() < 0.1:
            made["propertyNames"] = dice.choice(({"pattern": self._pattern()}, {"enum": list(NAMES[:4])}))
        if dice.random() < 0.1:
            made["dependentRequired"] = {"a": ["b"]}
        if dice.random() < 0.1:
            made["not"] = {"required": [dice.choice(NAMES)]}
        if dice.random() < 0.1:
            made["minProperties"] = dice.randrange(3)
        return made

    def _array(self, depth: int) -> Json:
        made: dict[str, Json] = {"type": "array", "items": self.schema(depth)}
        if self.dice.random() < 0.3:
            made["prefixItems"] = [self.schema(0)]
        made["minItems"] = self.dice.randrange(3)
        if self.dice.random() < 0.7:
            made["maxItems"] = made["minItems"] + self.dice.randrange(3)
        return made

    def _cases(self, depth: int) -> Json:
        key = self.dice.choice(("anyOf", "anyOf", "oneOf"))
        made: dict[str, Json] = {key: [self.schema(depth) for _ in range(self.dice.choice((2, 2, 3)))]}
        if self.dice.random() < 0.2:
            made["not"] = {"enum": [self.value(0)]}
        return made

    def _both(self, depth: int) -> Json:
        if self.dice.random() < 0.2:
            return {
                **self._number(depth),
                "not": {key: held for key, held in self._number(depth).items() if key != "type"},
            }
        if self.dice.random() < 0.5:
            return {"allOf": [self._number(depth), self._number(depth)]}
        return {"allOf": [self._string(depth), self._string(depth)]} if self.dice.random() < 0.7 else {
            "$defs": {"x": self.schema(0)}, "type": "array", "items": {"$ref": "#/$defs/x"}, "minItems": 1}  # fmt: skip

    def _renumbered(self, text: str, numbers: list[Json]) -> str:
        found = list(_NUMBER.finditer(text))
        if not found or not numbers:
            return self.near(self.dice.choice(numbers or BOUNDS))
        at = self.dice.choice(found)
        return text[: at.start()] + self.near(self.dice.choice(numbers)) + text[at.end() :]

    def _respelled(self, text: str, _: list[Json]) -> str:
        """One character as an escape."""
        places = [at for at, letter in enumerate(text) if letter not in '{}[]",:\\']
        if not places:
            return text
        at = self.dice.choice(places)
        return (
            text[:at] + json.dumps(text[at])[1:-1].replace(text[at], f"\\u{ord(text[at]) % 65536:04x}") + text[at + 1 :]
        )

    def _cut(self, text: str, _: list[Json]) -> str:
        at = self.dice.randint(0, len(text))
        return text[:at] + self.dice.choice(FRAGMENTS) + text[at + self.dice.choice((0, 0, 1, 2)) :]


def numbers_in(document: Json) -> list[Json]:
    """All numbers of a schema that no JSON reader takes for infinite."""
    return list(_numbers(document))


def _numbers(part: Json) -> Iterator[Json]:
    if isinstance(part, dict | list):
        for child in part.values() if isinstance(part, dict) else part:
            yield from _numbers(child)
    elif isinstance(part, int | float) and not isinstance(part, bool) and math.isfinite(part):
        yield part
