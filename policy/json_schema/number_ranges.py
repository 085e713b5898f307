"""Numeric keywords for llguidance: bounds, multiples and constants that it reads as validators do.

Knows how llguidance 1.9.1 reads numbers: as doubles, some with many digits as a neighbouring double, integers within 64
bits, and exclusive bounds with errors; and how validators compare: integers exactly, others as doubles. Does not know
documents. The rewritten bounds allow no number that a validator refuses; they leave out numbers that differ from an
exclusive bound only beyond some 15 digits.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from .document import every_schema

Json = Any
MOST: Final = 2**63 - 1024
"""The largest double within 64 bits. Beyond it, and at -2**63, llguidance fails or ends the process."""
_EXACT: Final = 2**53
"""Magnitude below which every integer is a double."""
_DIGITS: Final = 15
"""Number of decimal digits that a double keeps."""
_TINY: Final = 1e-290
"""Magnitude below which llguidance reads a double as another one."""
_LONG: Final = 10**17
"""Magnitude of a bound beyond which llguidance cannot leave the other side open."""


def unwritable(value: Json) -> Json | None:
    """A number in a constant that llguidance would write as another one or cannot write; None without any."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict | list):
            stack.extend(one.values() if isinstance(one, dict) else one)
        elif _is_number(one) and not _is_writable(one):
            return one
    return None


def _is_writable(number: float) -> bool:
    return abs(number) <= MOST and int(float(number)) == int(number) and not _misread(float(number))


def constant(value: Json) -> Json:
    """`value` with integral floats as integers, because llguidance pads the digits of large doubles with zeros."""
    if isinstance(value, dict):
        return {name: constant(child) for name, child in value.items()}
    if isinstance(value, list):
        return [constant(child) for child in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def unreachable(keyword: str, bound: Json) -> bool:
    """Whether a lower bound is above all numbers that llguidance can write, or an upper bound below them."""
    if not _is_number(bound):
        return False
    return bool(bound >= MOST if keyword in ("minimum", "exclusiveMinimum") else bound <= -MOST)


def bounded(schema: dict[str, Json]) -> dict[str, Json]:
    """`schema` with its numeric keywords as llguidance reads them correctly: inclusive bounds that are doubles."""
    if "const" in schema or "enum" in schema:
        return _listed(schema)
    if not _KEYWORDS & set(schema):
        return schema
    low, high = _bound(schema, "minimum", max), _bound(schema, "maximum", min)
    if (low is not None and low[0] > MOST) or (high is not None and high[0] < -MOST):
        return {**_unbounded(schema), "minimum": 1, "maximum": 0}  # from a rewrite; refused as given
    if schema.get("type") == "integer":
        least = None if low is None else _whole(low, up=True)
        most = None if high is None else _whole(high, up=False)
    else:
        if "multipleOf" in schema:  # a double must keep all digits of the multiples
            digits = -min(int(Decimal(repr(schema["multipleOf"])).normalize().as_tuple().exponent), 0)
            limit = Fraction(10) ** (_DIGITS - digits)
            low = (-limit, False) if low is None or low[0] < -limit else low
            high = (limit, False) if high is None or high[0] > limit else high
        least = None if low is None else _inside(low, None if high is None else high[0], up=True)
        most = None if high is None else _inside(high, None if low is None else low[0], up=False)
    if least is not None and most is None and least > _LONG:
        most = MOST
    if most is not None and least is None and most < -_LONG:
        least = -MOST
    result = _unbounded(schema)
    result |= {} if least is None else {"minimum": least}
    return result | ({} if most is None else {"maximum": most})


def _unbounded(schema: dict[str, Json]) -> dict[str, Json]:
    return {key: value for key, value in schema.items() if key not in BOUNDS}


def _listed(schema: dict[str, Json]) -> dict[str, Json]:
    """`schema` with `multipleOf` applied to its list of values, because to llguidance 0.5 is no multiple of 0.25."""
    if "multipleOf" not in schema:
        return schema
    step = Fraction(repr(schema["multipleOf"]))
    values: list[Json] = [schema["const"]] if "const" in schema else schema["enum"]
    left = [one for one in values if not _is_number(one) or Fraction(repr(one)) % step == 0]
    result = {key: value for key, value in schema.items() if key not in ("multipleOf", "const", "enum")}
    return {**result, "enum": left}


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def too_many_steps(steps: list[Json]) -> bool:
    """Whether several `multipleOf` for one number exceed the 32 bits in which llguidance combines them."""
    whole = _whole_steps(steps)
    return len(whole) > 1 and math.lcm(*whole) * max(whole) >= 2**32


def step_of(document: Json) -> int:
    """What all divisors (`multipleOf`) of a schema divide, in units of their last digit; 0 where there are none."""
    steps = [schema["multipleOf"] for _, schema in every_schema(document) if _is_number(schema.get("multipleOf"))]
    return math.lcm(*_whole_steps(steps)) if steps else 0


def _whole_steps(steps: list[Json]) -> list[int]:
    """Divisors as whole numbers of one decimal unit."""
    exact = [abs(Fraction(repr(step))) for step in steps]
    scale = math.lcm(*(one.denominator for one in exact))
    places = next(n for n in range(400) if 10**n % scale == 0)
    return [int(one * 10**places) for one in exact]


BOUNDS: Final = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))
_KEYWORDS: Final = BOUNDS | {"multipleOf"}


def _bound(schema: dict[str, Json], keyword: str, tighter: Any) -> tuple[Fraction, bool] | None:
    """A bound, and whether it is exclusive. In draft 4 the second keyword is a flag."""
    exclusive = f"exclusive{keyword.capitalize()}"
    plain, strict = schema.get(keyword), schema.get(exclusive)
    if isinstance(strict, bool) or strict is None:
        return None if plain is None else (Fraction(plain), bool(strict))
    if plain is None or tighter(plain, strict) == strict:
        return Fraction(strict), True
    return Fraction(plain), False


def _whole(bound: tuple[Fraction, bool], up: bool) -> int:
    """The nearest integer inside the bound that is a double and within 64 bits."""
    number, exclusive = bound
    near = math.ceil(number) if up else math.floor(number)
    near += (1 if up else -1) * (exclusive and near == number)
    near = max(-MOST, min(MOST, near))
    step = 1 if up else -1
    while int(float(near)) != near:
        near = (
            int(math.nextafter(float(near), step * math.inf))
            if (int(float(near)) - near) * step < 0
            else int(float(near))
        )
    return near


def _inside(bound: tuple[Fraction, bool], other: Fraction | None, up: bool) -> Json:
    """The nearest double inside the bound whose digits llguidance can write, at some distance from an exclusive one."""
    number, exclusive = bound
    if abs(number) > MOST:
        return MOST if number > 0 else -MOST
    sign = 1 if up else -1
    found = float(number)
    if exclusive:
        found = float(number + sign * _gap(number, other))
        if (Fraction(found) - number) * sign <= 0 or (other is not None and (other - Fraction(found)) * sign < 0):
            found = math.nextafter(float(number), sign * math.inf)
    if 0 < abs(found) < _TINY:
        found = math.copysign(_TINY, found) if found * sign > 0 else 0.0
    while not _is_inside(found, number, exclusive, sign):
        found = math.nextafter(found, sign * math.inf)
    if abs(found) > MOST:
        return MOST if found > 0 else -MOST
    return int(found) if found.is_integer() else found


def _is_inside(found: float, number: Fraction, exclusive: bool, sign: int) -> bool:
    """Whether the double is inside the bound and llguidance reads it correctly.

    The digits of a large double must be inside too, because validators read integers exactly.
    """
    if _misread(found):
        return False
    forms = (Fraction(found), Fraction(repr(found))) if abs(found) >= _EXACT else (Fraction(found),)
    away = [(form - number) * sign for form in forms]
    return all(one > 0 if exclusive else one >= 0 for one in away)


def _misread(number: float) -> bool:
    """Whether llguidance's JSON parser, which rounds digits and power of ten separately, reads another double."""
    if number.is_integer() and abs(number) <= MOST:
        return False  # passed on as an integer
    parts = Decimal(repr(number)).as_tuple()
    digits, power = int("".join(map(str, parts.digits))), int(parts.exponent)
    if abs(power) > 308:
        return True
    read = digits * 10.0**power if power >= 0 else digits / float(f"1e{-power}")
    return read != abs(number)


def _gap(number: Fraction, other: Fraction | None) -> Fraction:
    """The distance from an exclusive bound: one unit in the last digit that doubles keep, or less in a narrow range."""
    places = _DIGITS - _magnitude(number) if number else _DIGITS
    if other is not None and other != number:
        places = max(places if number else 0, min(places, 0) + _DIGITS, 3 - _magnitude(other - number))
    return Fraction(1, 10**places) if places >= 0 else Fraction(10**-places)


def _magnitude(number: Fraction) -> int:
    """The power of ten of the first digit, or that less one."""
    return len(str(abs(number.numerator))) - len(str(number.denominator))
