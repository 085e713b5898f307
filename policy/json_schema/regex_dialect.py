"""Regular expressions as several readers take them: Python's `re`, which checks output, and the grammar engine's own.

Knows both dialects. What they read differently is refused (`misread`); where their classes differ (`\\w`, `\\s`, `\\d`
and opposites, of ASCII for one and of Unicode for the other), `narrowed` writes what all of them take.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from math import factorial, inf, prod
from typing import Any, Final

_SPACES: Final = r"\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_NARROW: Final = {"d": "0-9", "w": "0-9A-Za-z_", "s": rf"\t-\r {_SPACES}"}
"""What every reader counts in."""
_WIDE: Final = {"d": r"\p{Nd}", "w": r"\p{L}\p{N}_", "s": rf"\t-\r\x1c- \x85{_SPACES}\ufeff"}
"""What any reader counts in."""
_FLAGS: Final = re.compile(r"\(\?([a-zA-Z]*)(?:-[a-zA-Z]+)?[:)]")
_REPEATED: Final = re.compile(r"\{\d+(?:,\d*)?\}|[*+?]")
_parser: Final[Any] = import_module("re._parser")
_WAYS: Final = 300_000
"""Ways through a pattern that Python may try at one place of a text: three open repetitions and some choices."""
_OPEN_ENDED: Final = re.compile(r"[*+]|\{\d*,\d*\}")


class Misread(ValueError):
    """A pattern that two readers take for two things; the message says which part and what to write."""


def misread(pattern: str, quoted: bool = False) -> str | None:
    """What of a pattern readers take for different things, and what to write; None where there is nothing.

    `quoted`: of texts in JSON, where some control characters cannot be written.
    """
    try:
        never = _NEVER in _pieces(pattern, quoted)
    except Misread as error:
        return str(error)
    return "a control character that JSON has no short escape for cannot be written; leave it out" if never else None


def is_slow(pattern: str) -> bool:
    """Whether Python's `re` might take very long to say that a text does not match, or cannot read the pattern.

    Nothing can stop it meanwhile: it holds the interpreter's lock.
    """
    try:
        # Open repetitions share the letters of one text, so that three of them have a sixth of all combinations.
        together = factorial(min(len(_OPEN_ENDED.findall(pattern)), 3))
        return _ways(_parser.parse(pattern)) / together > _WAYS
    except (re.error, RecursionError, OverflowError):
        return True


def _ways(parts: Any) -> float:
    """How many ways through a parsed pattern backtracking may try; without end where a group is repeated."""
    return prod((_ways_of(str(kind), what) for kind, what in parts), start=1.0)


def _ways_of(kind: str, what: Any) -> float:
    match kind:
        case "BRANCH":
            return sum(map(_ways, what[1]))
        case "SUBPATTERN":
            return _ways(what[3])
        case "ATOMIC_GROUP":
            return _ways(what)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, most, inner = what
            if int(most) > 1 and str(inner[0][0] if len(inner) == 1 else "") not in _LETTERS:
                return inf
            return _ways(inner) + min(int(most) - int(least), 64)
        case "ASSERT" | "ASSERT_NOT":
            return _ways(what[1])
        case "GROUPREF_EXISTS":
            return inf
        case _:
            return 1


_LETTERS: Final = ("LITERAL", "NOT_LITERAL", "ANY", "IN", "CATEGORY")


def narrowed(pattern: str, quoted: bool = False) -> str:
    """`pattern` for the grammar engine: it takes nothing that another reader refuses. `quoted`: of texts in JSON.

    Raises Misread.
    """
    return "".join(_pieces(pattern, quoted))


def of_names(pattern: str, wide: bool = False) -> str:
    """`narrowed` for names that others may stand beside: Python's `$` also stands before a last newline.

    `wide`: those that do not match are free, so it takes all that any reader takes.
    """
    return "".join(r"\n?$" if piece == "$" else piece for piece in _pieces(pattern, quoted=True, wide=wide))


def is_read_alike(pattern: str) -> bool:
    """Whether all readers count the same letters in its classes."""
    return of_names(pattern) == of_names(pattern, wide=True)


def _pieces(pattern: str, quoted: bool, wide: bool = False) -> Iterator[str]:
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        if quoted and (found := _UNWRITTEN.match(pattern, at)):
            yield _NEVER
            at = found.end()
        elif letter == "\\":
            yield _escape(pattern[at + 1 : at + 2], wide)
            at += 2
        elif letter == "[":
            end = _class_end(pattern, at)
            yield _class(pattern[at + 1 : end - 1], _CONTROLS if quoted else r"\x00", wide)
            at = end
        elif letter == "(" and pattern[at + 1 : at + 2] == "?":
            flags = _FLAGS.match(pattern, at)
            if flags and set(flags.group(1)) - set("is"):
                raise Misread(f"the flags in {flags.group()!r} have another meaning elsewhere; leave them out")
            yield "(?"
            at += 2
        elif found := _REPEATED.match(pattern, at):
            if pattern[found.end() : found.end() + 1] == "+":
                raise Misread(f"a possessive {found.group()!r}+ is a repetition to others; write {found.group()!r}")
            yield found.group()
            at = found.end()
        else:
            yield letter
            at += 1


def _escape(letter: str, wide: bool) -> str:
    plain, other = (_WIDE, _NARROW) if wide else (_NARROW, _WIDE)
    if letter in plain:
        return f"[{plain[letter]}]"
    return f"[^{other[letter.lower()]}]" if letter and letter.lower() in _WIDE else f"\\{letter}"


def _class_end(pattern: str, at: int) -> int:
    """The index after a class that opens at `at`."""
    end = at + (2 if pattern[at + 1 : at + 2] == "^" else 1)
    end += pattern[end : end + 1] == "]"  # a bracket in first place is a letter
    while end < len(pattern) and pattern[end] != "]":
        end += 2 if pattern[end] == "\\" else 1
    return end + 1


def _class(inside: str, without: str, wide: bool) -> str:
    """A class whose members are narrow, or wide where it is negated; the other way round in a `wide` pattern.

    `without`: what none of its letters may be.
    """
    negated = inside.startswith("^")
    made, letters = ["[^" if negated else "["], re.findall(r"\\.|.", inside[negated:], re.DOTALL)
    named = {letter[1] for letter in letters if letter[0] == "\\" and letter[1:].lower() in _WIDE}
    if any(letter.swapcase() in named for letter in named):
        return r"[^\s\S]" if negated else rf"[^{without}]"
    plain, other = (_WIDE, _NARROW) if negated != wide else (_NARROW, _WIDE)
    for letter, following in zip(letters, [*letters[1:], ""], strict=False):
        if letter == "[":
            raise Misread(f"a bracket inside of [{inside}] opens a class of its own elsewhere; write \\[")
        if letter == following and letter in "&-~":
            raise Misread(f"{letter * 2!r} inside of [{inside}] is an operator elsewhere; write \\{letter}\\{letter}")
        name = letter[1:]
        made.append(plain[name] if name in plain else f"[^{other[name.lower()]}]" if name in named else letter)
    held = "".join(made)
    if negated:
        return rf"{held}{without}]"
    return rf"[{held}]&&[^{without}]]" if _may_hold_controls(letters) else f"{held}]"


def _may_hold_controls(letters: list[str]) -> bool:
    """Whether a class may hold U+0000 or another control character that no text in JSON is written with.

    With U+0000, the grammar engine (llguidance 1.9.1) takes a class of all control characters and adds the quote and
    the backslash to it, wherever it is in JSON; a class of one of the others it leaves out of what it writes.
    """
    return any(
        letter <= " " or letter >= "\x7f" or (letter[0] == "\\" and letter[1:].lower() not in _PLAIN)
        for letter in letters
    )


_PLAIN: Final = frozenset((*"dwsnrtf", *"-]^[.$*+?(){}|/\\&~#,:;='\"<>!@%_ "))
"""What may stand behind a backslash in a class without the class holding such a character."""
_CONTROLS: Final = r"\x00-\x07\x0b\x0e-\x1f\x7f"
"""Those without a short escape in JSON, which only constants are written with."""
_HEX: Final = "(?:0[0-7bBe-fE-F]|1[0-9a-fA-F]|7[fF])"
_UNWRITTEN: Final = re.compile(rf"[{_CONTROLS}]|\\(?:[va{_CONTROLS}]|x{_HEX}|u00{_HEX}|U000000{_HEX})")
"""One of them as a letter of a pattern, in all spellings that readers share."""
_NEVER: Final = r"(?:[^\s\S])"
"""What takes no letter, in place of one of them: the grammar engine (llguidance 1.9.1) would write none there."""
