"""The prompt of a step: what its function returned, or its docstring with the arguments in their places.

Knows functions, docstrings and their `{places}`. Does not know kinds of steps, schemas or sessions.
"""

from __future__ import annotations

import dis
import inspect
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from ..conversation import checked_messages, checked_text
from ..errors import StepError

_NOTHING: Final = frozenset(
    {
        *("RESUME", "NOP", "CACHE", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST", "RETURN_GENERATOR", "POP_TOP"),
        *("COPY_FREE_VARS", "CALL_INTRINSIC_1", "RERAISE", "NOT_TAKEN"),
    }
)
"""What a body is made of that does nothing: `...`, `pass`, or a docstring alone."""
_BRACES: Final = "write {{ and }} for braces that are meant as such"


def messages_of(
    name: str, function: Callable[..., Any], returned: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Mapping[str, Any], ...]:
    """Returns the conversation: what the function returned (text or messages), else its docstring with the arguments
    filled in. Raises StepError where the step has no prompt, RequestError for what is no message."""
    if isinstance(returned, str):
        return ({"role": "user", "content": checked_text(returned, f"what step {name!r} returned")},)
    if isinstance(returned, Sequence) and not isinstance(returned, bytes | bytearray):
        return checked_messages(returned, f"what step {name!r} returned")
    if returned is not None and returned is not ...:
        raise StepError(f"step {name!r} returned {type(returned).__name__}; return text, messages or nothing")
    text = _filled(name, function, args, kwargs)
    return ({"role": "user", "content": checked_text(text, f"the prompt of step {name!r}")},)


def check_template(function: Callable[..., Any]) -> None:
    """Raises StepError for places in the docstring that no argument fills, where the docstring is the prompt.

    It is where the body does nothing; another body may return a prompt, and its docstring may say what it likes.
    """
    name = function.__name__
    code = getattr(function, "__code__", None)
    if code is None or any(_does_something(step) for step in dis.get_instructions(code)):
        return
    template = inspect.getdoc(function)
    if not template:
        raise StepError(f"step {name!r} has neither a docstring nor a returned prompt")
    _check_names(name, template, set(inspect.signature(function).parameters))


def _does_something(step: dis.Instruction) -> bool:
    given = step.opname in ("LOAD_CONST", "RETURN_CONST") and step.argval not in (None, ...)
    return given or step.opname not in _NOTHING


def _check_names(name: str, template: str, known: set[str]) -> set[str]:
    """The arguments that have a place in the template."""
    try:
        named = {re.split(r"[.\[]", field)[0] for field in _fields(template)}
    except ValueError as error:
        raise StepError(f"step {name!r}: the docstring is no template: {error}; {_BRACES}") from None
    if unknown := sorted(named - known):
        raise StepError(
            f"step {name!r}: the docstring names {{{unknown[0]}}}, which is no argument; known: "
            f"{', '.join(sorted(known)) or 'none'}; {_BRACES}"
        )
    return named


def _fields(template: str) -> Iterator[str]:
    """Names of places, those within formats included. Raises ValueError for a brace that opens or closes nothing."""
    for _, field, inside, conversion in string.Formatter().parse(template):
        if field is None:
            continue
        if conversion not in (None, "r", "s", "a"):
            raise ValueError(f"{conversion!r} is no conversion")
        yield field
        yield from _fields(inside or "")


def _filled(name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    template = inspect.getdoc(function)
    if not template:
        raise StepError(f"step {name!r} has neither a docstring nor a returned prompt")
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    values = {**_owner(function, bound.arguments), **bound.arguments}
    named = _check_names(name, template, set(values))
    placed = {*named, *_object_of(function)}
    rest = [f"{word}: {value}" for word, value in bound.arguments.items() if word not in placed]
    try:
        return "\n".join([template.format(**values), *rest])
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise StepError(
            f"step {name!r}: the docstring cannot be filled in: {type(error).__name__}: {error}; {_BRACES}"
        ) from error


def _object_of(function: Callable[..., Any]) -> list[str]:
    """The name of a method's object, where the method is called through its class."""
    place = function.__qualname__.rpartition(".")[0]
    first = next(iter(inspect.signature(function).parameters), "")
    return [first] if first in ("self", "cls") and place and not place.endswith("<locals>") else []


def _owner(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The object that a method belongs to, by its name: a docstring may name it, and nothing else shows it."""
    if not inspect.ismethod(function):
        return {}
    first = next(iter(inspect.signature(function.__func__).parameters), "self")
    return {} if first in arguments else {first: function.__self__}
