"""Errors of the policy layer, one class for each cause. Every message tells what was given and what to do.

TrimodeError (engine)
├── SchemaError
│   ├── SchemaRefused         refused when the schema is defined; has pointer, keyword and hint
│   │   ├── MalformedSchema       not a JSON Schema, or not JSON at all
│   │   ├── UnsupportedKeyword    the grammar cannot enforce this keyword
│   │   ├── UnsatisfiableSchema   no finite value can ever fit
│   │   ├── SchemaTooComplex      beyond a limit of size, depth or compile time
│   │   ├── MalformedGrammar      not a valid regex, choice or Lark grammar
│   │   └── UnsupportedSyntax     a construct of one that the grammar cannot enforce
│   ├── BudgetTooSmall        no complete text of the schema fits max_tokens
│   ├── OutputRefused         finished output that violates its schema; has the text and the call's result
│   │   ├── SchemaViolation       a bug of trimode, or a rule in a type's own code
│   │   └── CheckFailed           guarantee="checked": no attempt fulfilled the rules that the grammar cannot enforce
│   └── GrammarRuntimeError   the grammar engine stopped in the middle of a text
├── AuditError
│   ├── AuditFileRefused      a path that is not an audit file, or cannot be read or written
│   └── AuditWriteFailed      a call's record could not be appended; has the path and the call's result
├── BudgetExceeded            a session's budget leaves nothing for the next step
├── ToolError                 a tool call that cannot be run
│   ├── UnknownTool               no tool has that name
│   └── InvalidArguments          the arguments do not fit the tool's types
├── PolicyError               a mode, option, policy or configuration that does not exist or does not fit
└── StepError                 a step function that cannot be turned into a prompt
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from trimode.engine.errors import TrimodeError

from .refused import Attempt as Attempt
from .refused import FinishedResult as FinishedResult
from .refused import RefusedResult as RefusedResult
from .refused import WithResult

_REPORT: Final = "this is a bug of trimode, not of the model: please report it with the schema and the text"
CHECKED: Final = "or ask for guarantee='checked', which checks it in the finished output"


def shown(value: object) -> str:
    """Returns the first 200 characters of `repr`, in ASCII; a substitute if `repr` fails, as for very deep values."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):
        return f"a very large {type(value).__name__}"
    return text[:200] + ("..." if len(text) > 200 else "")


def error_type(error: BaseException) -> str:
    """Returns the qualified name of an error's class, without the module for builtins."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class SchemaError(TrimodeError, ValueError):
    """A schema that cannot be used."""


class SchemaRefused(SchemaError):
    """A schema refused before decoding. `pointer`: JSON pointer to the place; `keyword`; `hint`: what to do.

    `tool`: name of the tool in whose description, as it was given, the pointer is; empty without tools.
    """

    pointer: str
    keyword: str
    hint: str
    tool: str

    def __init__(self, message: str, pointer: str, keyword: str, hint: str) -> None:
        super().__init__(f"{message}: {hint}")
        self.pointer, self.keyword, self.hint, self.tool = pointer, keyword, hint, ""

    def elsewhere(self, pointer: str, tool: str = "") -> Self:
        """Returns a copy of the error with another pointer, for a caller who knows the place by that pointer."""
        moved = copy(self)
        text = str(self).replace(f" at {self.pointer or '#'}", f" at {pointer or '#'}", 1)
        moved.args = (f"tool {tool!r}: {text}" if tool else text,)
        moved.pointer, moved.tool = pointer, tool
        return moved


class MalformedSchema(SchemaRefused):
    """The value is not a JSON Schema. `path`: readable JSON path, for the message."""

    def __init__(self, pointer: str, keyword: str, path: str, hint: str) -> None:
        super().__init__(f"not a JSON Schema, at {path}", pointer, keyword, hint)


class UnsupportedKeyword(SchemaRefused):
    """A keyword that the grammar cannot enforce, refused when the schema is defined.

    `checkable`: finished output can be validated against it, so `guarantee="checked"` is an alternative.
    """

    def __init__(self, pointer: str, keyword: str, hint: str, *, checkable: bool = True) -> None:
        option = f"; {CHECKED}" if checkable else ""
        super().__init__(
            f"schema keyword {keyword!r} at {pointer or '#'} cannot be enforced", pointer, keyword, hint + option
        )
        self.checkable = checkable


class UnsatisfiableSchema(SchemaRefused):
    """No finite value fits the schema, so constrained output would never end."""

    def __init__(self, pointer: str, keyword: str, hint: str) -> None:
        super().__init__(f"no value can fit the schema, at {pointer or '#'}", pointer, keyword, hint)


class SchemaTooComplex(SchemaRefused):
    """The schema is beyond a limit, or compiling it took longer than allowed."""

    def __init__(self, pointer: str, keyword: str, hint: str) -> None:
        super().__init__(f"the schema is too complex, at {pointer or '#'}", pointer, keyword, hint)


class MalformedGrammar(SchemaRefused):
    """The value is not a valid regex, choice or Lark grammar; `keyword`: which of them. `pointer` is empty."""

    def __init__(self, kind: str, hint: str) -> None:
        super().__init__(f"not a {kind}", "", kind, hint)


class UnsupportedSyntax(SchemaRefused):
    """A construct of a regex or a Lark grammar (`keyword`) that the grammar engine cannot enforce."""

    def __init__(self, kind: str, construct: str, hint: str) -> None:
        super().__init__(f"{construct!r} in a {kind} cannot be held", "", construct, hint)


class BudgetTooSmall(SchemaError):
    """No known complete text of the schema fits the token budget. `need`, `got`: tokens, including the end token."""

    need: int
    got: int

    def __init__(self, need: int, got: int) -> None:
        super().__init__(
            f"the shortest text known to fit the schema takes {need} tokens and {got} are allowed for it; raise "
            "max_tokens (or lower max_thinking_tokens, which is taken from it)"
        )
        self.need, self.got = need, got


class OutputRefused(WithResult, SchemaError):
    """Finished output that violates its schema. `text`: the text that was validated. `result`: the call's result,
    without a value; None if the text is not from a call."""

    text: str
    result: RefusedResult | None = None


class SchemaViolation(OutputRefused):
    """Finished output fails validation. The grammar prevents this, except for rules in a type's own code.

    `audit_id`: id of the call's record.
    """

    text: str
    cause: str
    hint: str
    audit_id: str

    def __init__(self, text: str, cause: str, hint: str = _REPORT) -> None:
        super().__init__(f"constrained output breaks its schema: {cause}; {hint}. The text: {text[:500]!r}")
        self.text, self.cause, self.hint, self.audit_id = text, cause, hint, ""


class CheckFailed(OutputRefused):
    """Every attempt under guarantee="checked" violated the schema.

    `text`, `violation`: of the last attempt. `attempts`: all of them.
    """

    text: str
    violation: str
    attempts: tuple[Attempt, ...]

    def __init__(self, text: str, violation: str, attempts: Sequence[Attempt] = ()) -> None:
        tries = f"{len(attempts)} attempts" if len(attempts) > 1 else "one attempt"
        super().__init__(
            f"guarantee='checked': {tries} ended, none fulfils the schema; {violation}; raise retries, or ask for less "
            f"in the schema. The last text: {text[:500]!r}"
        )
        self.text, self.violation, self.attempts = text, violation, tuple(attempts)


class GrammarRuntimeError(SchemaError):
    """The grammar engine failed during decoding; no token was emitted without its mask."""


class AuditError(TrimodeError):
    """An audit file that cannot be used. `path`: the file."""

    path: Path


class AuditFileRefused(AuditError):
    """The path is not an audit file, or cannot be read or written. `why`: the reason as text."""

    path: Path
    why: str
    _allowed: ClassVar[str] = "; an audit file is what trimode wrote itself, or a path where nothing is yet"

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}{self._allowed}")
        self.path, self.why = path, why


class TrailsNotMerged(AuditFileRefused):
    """A trail that cannot be merged: it does not verify, or says something else of a call than another one."""

    _allowed: ClassVar[str] = ""


class AuditWriteFailed(WithResult, AuditError):
    """The record of a call could not be appended, for example because a disk is full. The file has no part of it.

    `path`: the first file concerned, `paths`: all of them; other audit files have the record. `result`: the call's
    result with its value; None if the call failed earlier. `audit_id`: id of the record. `why`: the reason as text.
    """

    path: Path
    paths: tuple[Path, ...]
    why: str
    audit_id: str

    def __init__(self, paths: Sequence[Path], why: str, audit_id: str, result: FinishedResult | None = None) -> None:
        kept = "" if result is None else "; error.result has what the call generated"
        super().__init__(f"{', '.join(map(str, paths))}: the record of call {audit_id} was not written: {why}{kept}")
        self.path, self.paths, self.why, self.audit_id = paths[0], tuple(paths), why, audit_id
        self.result = result


class BudgetExceeded(TrimodeError):
    """The session's budget of `what` (tokens, seconds or passes) is too small for `step` to start.

    Nothing remains, or fewer tokens than the schema's shortest text. `spent` includes what running steps have reserved.
    """

    what: str
    spent: float
    allowed: float
    step: str

    def __init__(self, what: str, spent: float, allowed: float, step: str) -> None:
        super().__init__(
            f"step {step!r} cannot start: {spent:g} of the session's {allowed:g} {what} are spent or reserved; "
            f"raise Budget({what}=...), or open another session"
        )
        self.what, self.spent, self.allowed, self.step = what, spent, allowed, step


class ToolError(TrimodeError):
    """A tool call that cannot be run."""


class UnknownTool(ToolError, LookupError):
    """No tool has that name. `known`: names of the tools that were passed."""

    name: str
    known: tuple[str, ...]

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no tool is named {name!r}; known: {', '.join(known) or 'none'}; pass its function in tools")
        self.name, self.known = name, tuple(known)


class InvalidArguments(ToolError, ValueError):
    """The arguments do not fit the tool's types, so it was not called."""

    name: str
    arguments: Any
    cause: str

    def __init__(self, name: str, arguments: Any, cause: str) -> None:
        super().__init__(f"tool {name!r} was not called: {cause}")
        self.name, self.arguments, self.cause = name, arguments, cause


class PolicyError(TrimodeError, ValueError):
    """A mode, option, policy or configuration that is unknown or not allowed. `where`: path of keys to it in a policy's
    table; empty if it is not in a table."""

    where: tuple[str, ...]

    def __init__(self, message: str, where: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.where = tuple(where)


class StepError(TrimodeError, TypeError):
    """A step function whose prompt or return annotation cannot be used."""
