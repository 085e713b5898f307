"""Regular expressions in several dialects: Python's `re`, which checks output, and llguidance's.

Knows both dialects. Does not know schemas. Syntax with different meanings is refused (`misread`). Where classes differ
(`\\w`, `\\s`, `\\d` and their negations, in ASCII or Unicode), `narrowed` writes the characters common to all dialects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from math import factorial, inf, prod
from typing import Any, Final

_SPACES: Final = r"\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_NARROW: Final = {"d": "0-9", "w": "0-9A-Za-z_", "s": rf"\t-\r {_SPACES}"}
"""Characters of each class in all dialects."""
_WIDE: Final = {"d": r"\p{Nd}", "w": r"\p{L}\p{N}_", "s": rf"\t-\r\x1c- \x85{_SPACES}\ufeff"}
"""Characters of each class in at least one dialect."""
_FLAGS: Final = re.compile(r"\(\?([a-zA-Z]*)(?:-[a-zA-Z]+)?[:)]")
_REPEATED: Final = re.compile(r"\{\d+(?:,\d*)?\}|[*+?]")
_parser: Final[Any] = import_module("re._parser")
_WAYS: Final = 300_000
"""Number of paths through a pattern that Python may try at one position of a text: three unbounded repetitions and some
alternatives."""
_OPEN_ENDED: Final = re.compile(r"[*+]|\{\d*,\d*\}")


class Misread(ValueError):
    """A pattern with different meanings in two dialects; the message names the part and what to write instead."""


def misread(pattern: str, quoted: bool = False) -> str | None:
    """The part of a pattern that dialects read differently, and what to write instead; None where they agree.

    `quoted`: whether the pattern is for JSON strings, in which some control characters cannot be written.
    """
    try:
        never = _NEVER in _pieces(pattern, quoted)
    except Misread as error:
        return str(error)
    return "a control character that JSON has no short escape for cannot be written; leave it out" if never else None


def is_slow(pattern: str) -> bool:
    """Whether Python's `re` might take very long on a text that does not match, or cannot parse the pattern.

    Such a match must not be started, because `re` holds the interpreter's lock and cannot be stopped.
    """
    try:
        # Unbounded repetitions share the characters of one text, so three of them have a sixth of all combinations.
        together = factorial(min(len(_OPEN_ENDED.findall(pattern)), 3))
        return _ways(_parser.parse(pattern)) / together > _WAYS
    except (re.error, RecursionError, OverflowError):
        return True


def _ways(parts: Any) -> float:
    """The number of paths through a parsed pattern that backtracking may try; infinite where a group is repeated."""
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
            if int(most) > 1 and str(inner[0][0] if len(inner) == 1 else "") not in _SINGLE:
                return inf
            return _ways(inner) + min(int(most) - int(least), 64)
        case "ASSERT" | "ASSERT_NOT":
            return _ways(what[1])
        case "GROUPREF_EXISTS":
            return inf
        case _:
            return 1


_SINGLE: Final = ("LITERAL", "NOT_LITERAL", "ANY", "IN", "CATEGORY")
"""The parser's names of parts that match one character."""


def narrowed(pattern: str, quoted: bool = False) -> str:
    """`pattern` for llguidance: it matches nothing that another dialect refuses. `quoted`: for JSON strings.

    Raises Misread.
    """
    return "".join(_pieces(pattern, quoted))


def of_names(pattern: str, wide: bool = False) -> str:
    """`narrowed` for names of properties next to others. `$` also matches before a last newline, as in Python.

    `wide`: matches what any dialect matches, because names that do not match are unconstrained.
    """
    return "".join(r"\n?$" if piece == "$" else piece for piece in _pieces(pattern, quoted=True, wide=wide))


def is_read_alike(pattern: str) -> bool:
    """Whether all dialects have the same characters in the classes of a pattern."""
    return of_names(pattern) == of_names(pattern, wide=True)


def _pieces(pattern: str, quoted: bool, wide: bool = False) -> Iterator[str]:
    """The rewritten pattern, piece by piece. Raises Misread."""
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if quoted and (found := _CONTROL.match(pattern, at)):
            yield _NEVER
            at = found.end()
        elif character == "\\":
            yield _escape(pattern[at + 1 : at + 2], wide)
            at += 2
        elif character == "[":
            end = _class_end(pattern, at)
            yield _class(pattern[at + 1 : end - 1], _CONTROLS if quoted else r"\x00", wide)
            at = end
        elif character == "(" and pattern[at + 1 : at + 2] == "?":
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
            yield character
            at += 1


def _escape(character: str, wide: bool) -> str:
    """The rewritten escape of a character outside classes."""
    plain, other = (_WIDE, _NARROW) if wide else (_NARROW, _WIDE)
    if character in plain:
        return f"[{plain[character]}]"
    return f"[^{other[character.lower()]}]" if character and character.lower() in _WIDE else f"\\{character}"


def _class_end(pattern: str, at: int) -> int:
    """The index after a class that opens at `at`."""
    end = at + (2 if pattern[at + 1 : at + 2] == "^" else 1)
    end += pattern[end : end + 1] == "]"  # a bracket in first place is literal
    while end < len(pattern) and pattern[end] != "]":
        end += 2 if pattern[end] == "\\" else 1
    return end + 1


def _class(inside: str, without: str, wide: bool) -> str:
    """The rewritten class: narrow members, wide ones where it is negated; the other way round in a `wide` pattern.

    `inside`: the text between the brackets; `without`: characters that the class must not contain.
    """
    negated = inside.startswith("^")
    pieces, members = ["[^" if negated else "["], re.findall(r"\\.|.", inside[negated:], re.DOTALL)
    named = {member[1] for member in members if member[0] == "\\" and member[1:].lower() in _WIDE}
    if any(name.swapcase() in named for name in named):
        return r"[^\s\S]" if negated else rf"[^{without}]"
    plain, other = (_WIDE, _NARROW) if negated != wide else (_NARROW, _WIDE)
    for member, following in zip(members, [*members[1:], ""], strict=False):
        if member == "[":
            raise Misread(f"a bracket inside of [{inside}] opens a class of its own elsewhere; write \\[")
        if member == following and member in "&-~":
            raise Misread(f"{member * 2!r} inside of [{inside}] is an operator elsewhere; write \\{member}\\{member}")
        name = member[1:]
        pieces.append(plain[name] if name in plain else f"[^{other[name.lower()]}]" if name in named else member)
    text = "".join(pieces)
    if negated:
        return rf"{text}{without}]"
    return rf"[{text}]&&[^{without}]]" if _may_contain_controls(members) else f"{text}]"


def _may_contain_controls(members: list[str]) -> bool:
    """Whether a class may contain U+0000 or another control character that JSON strings are not written with.

    In JSON, llguidance 1.9.1 reads a class with U+0000 as one of all control characters, the quote and the backslash;
    a class of another of these characters matches nothing there.
    """
    return any(
        member <= " " or member >= "\x7f" or (member[0] == "\\" and member[1:].lower() not in _PLAIN)
        for member in members
    )


_PLAIN: Final = frozenset((*"dwsnrtf", *"-]^[.$*+?(){}|/\\&~#,:;='\"<>!@%_ "))
"""Characters after a backslash in a class that do not make it contain such a control character."""
_CONTROLS: Final = r"\x00-\x07\x0b\x0e-\x1f\x7f"
"""Control characters without a short escape in JSON; only constants may contain them."""
_HEX: Final = "(?:0[0-7bBe-fE-F]|1[0-9a-fA-F]|7[fF])"
_CONTROL: Final = re.compile(rf"[{_CONTROLS}]|\\(?:[va{_CONTROLS}]|x{_HEX}|u00{_HEX}|U000000{_HEX})")
"""One of these characters in a pattern, as a literal or in an escape that all dialects share."""
_NEVER: Final = r"(?:[^\s\S])"
"""A class without characters, which replaces one of these because llguidance 1.9.1 would write nothing there."""
