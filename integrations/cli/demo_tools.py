"""The demo's tools that really run. Knows arithmetic. Does not know models, calls or episodes."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any, Final

Number = int | float
LIMIT: Final = 10**12
"""Largest absolute value on the way, because the model writes the expression."""

_BINARY: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: Final[dict[type[ast.unaryop], Callable[[Any], Any]]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def calculator(expression: str) -> Number:
    """Evaluates one arithmetic expression of numbers, + - * / // % and brackets.

    Raises ValueError for anything else, and ZeroDivisionError.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{expression!r} is no arithmetic expression") from None
    found = _value(tree.body, expression)
    return int(found) if isinstance(found, float) and found.is_integer() else found


def _value(node: ast.expr, expression: str) -> Number:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            found: Number = number
        case ast.UnaryOp(op=sign, operand=inner) if type(sign) in _UNARY:
            found = _UNARY[type(sign)](_value(inner, expression))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            found = _BINARY[type(sign)](_value(left, expression), _value(right, expression))
        case _:
            raise ValueError(f"{expression!r}: expected numbers, + - * / // % and brackets")
    if not abs(found) <= LIMIT:
        raise ValueError(f"{expression!r} leaves the numbers up to {LIMIT:.0e}")
    return found


LIVE_TOOLS: Final[dict[str, Callable[..., Any]]] = {"calculator": calculator}
"""By name in the episodes; episodes with other tools are played from the record only."""
