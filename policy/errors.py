"""What can go wrong in the policy layer, one class a cause. Every message says what was given and what to do.

TrimodeError (engine)
├── SchemaError
│   ├── SchemaRefused         refused when the schema is defined; has pointer, keyword and hint
│   │   ├── MalformedSchema       not a JSON Schema, or not JSON at all
│   │   ├── UnsupportedKeyword    the grammar cannot hold this keyword
│   │   ├── UnsatisfiableSchema   no finite value can ever fit
│   │   ├── SchemaTooComplex      beyond a limit of size, depth or compile time
│   │   ├── MalformedGrammar      a regex, choice or Lark grammar that is none
│   │   └── UnsupportedSyntax     a construct of those that the grammar cannot hold
│   ├── BudgetTooSmall        no complete text of the schema fits max_tokens
│   ├── OutputRefused         finished output that its schema refuses; has the text and the call's result
│   │   ├── SchemaViolation       a bug of trimode, or a rule in a type's own code
│   │   └── CheckFailed           guarantee="checked": no attempt fulfilled what the grammar does not hold
│   └── GrammarRuntimeError   the grammar engine stopped in the middle of a text
├── AuditError
│   ├── AuditFileRefused      a path that is no audit file, or cannot be read or written
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
from typing import Any, Final, Self

from trimode.engine.errors import TrimodeError

from .refused import Attempt as Attempt
from .refused import FinishedResult as FinishedResult
from .refused import RefusedResult as RefusedResult

_REPORT: Final = "this is a bug of trimode, not of the model: please report it with the schema and the text"
CHECKED: Final = "or ask for guarantee='checked', which checks it in the finished output"


def shown(value: object) -> str:
    """The start of what `repr` says, in ASCII; Python refuses to write very long integers and very deep values."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):
        return f"a very large {type(value).__name__}"
    return text[:200] + ("..." if len(text) > 200 else "")


def error_type(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class SchemaError(TrimodeError, ValueError):
    """A schema that cannot be used."""


class SchemaRefused(SchemaError):
    """A schema refused before anything is decoded: `pointer` (JSON pointer), `keyword`, and `hint`, what to do.

    `tool`: the tool into whose description, as it was given, the pointer leads; empty where there are no tools.
    """

    pointer: str
    keyword: str
    hint: str
    tool: str

    def __init__(self, message: str, pointer: str, keyword: str, hint: str) -> None:
        super().__init__(f"{message}: {hint}")
        self.pointer, self.keyword, self.hint, self.tool = pointer, keyword, hint, ""

    def elsewhere(self, pointer: str, tool: str = "") -> Self:
        """The same refusal, for those who know the place under another pointer."""
        made = copy(self)
        text = str(self).replace(f" at {self.pointer or '#'}", f" at {pointer or '#'}", 1)
        made.args = (f"tool {tool!r}: {text}" if tool else text,)
        made.pointer, made.tool = pointer, tool
        return made


class MalformedSchema(SchemaRefused):
    """What was given is not a JSON Schema. `path` is the JSON path that people read."""

    def __init__(self, pointer: str, keyword: str, path: str, hint: str) -> None:
        super().__init__(f"not a JSON Schema, at {path}", pointer, keyword, hint)


class UnsupportedKeyword(SchemaRefused):
    """A keyword that the grammar cannot enforce, refused when the schema is defined.

    `checkable`: finished output can be checked against it, so that `guarantee="checked"` is a way out.
    """

    def __init__(self, pointer: str, keyword: str, hint: str, *, checkable: bool = True) -> None:
        option = f"; {CHECKED}" if checkable else ""
        super().__init__(
            f"schema keyword {keyword!r} at {pointer or '#'} cannot be enforced", pointer, keyword, hint + option
        )
        self.checkable = checkable


class UnsatisfiableSchema(SchemaRefused):
    """No finite value fits, so a grammar could only write for ever."""

    def __init__(self, pointer: str, keyword: str, hint: str) -> None:
        super().__init__(f"no value can fit the schema, at {pointer or '#'}", pointer, keyword, hint)


class SchemaTooComplex(SchemaRefused):
    """The schema is beyond a limit, or compiling it took longer than allowed."""

    def __init__(self, pointer: str, keyword: str, hint: str) -> None:
        super().__init__(f"the schema is too complex, at {pointer or '#'}", pointer, keyword, hint)


class MalformedGrammar(SchemaRefused):
    """What was given as regex, choice or lark is none; `keyword` says which, `pointer` is empty."""

    def __init__(self, kind: str, hint: str) -> None:
        super().__init__(f"not a {kind}", "", kind, hint)


class UnsupportedSyntax(SchemaRefused):
    """A construct of a regex or a Lark grammar (`keyword`) that cannot be held."""

    def __init__(self, kind: str, construct: str, hint: str) -> None:
        super().__init__(f"{construct!r} in a {kind} cannot be held", "", construct, hint)


class BudgetTooSmall(SchemaError):
    """No complete text of the schema is known that fits. `need` and `got` are in tokens, the end token included."""

    need: int
    got: int

    def __init__(self, need: int, got: int) -> None:
        super().__init__(
            f"the shortest text known to fit the schema takes {need} tokens and {got} are allowed for it; raise "
            "max_tokens (or lower max_thinking_tokens, which is taken from it)"
        )
        self.need, self.got = need, got


class _WithResult(TrimodeError):
    """`result`: what came of the call, or None. A copy that another process gets has none."""

    result: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, (kind, args, said) = super().__reduce__()
        return rebuild, (kind, args, {**said, "result": None})  # a plan may hold locks and functions


class OutputRefused(_WithResult, SchemaError):
    """Finished output that a schema refuses. `text`: what was looked at. `result`: what came of the call, without a
    value; None where no call wrote the text."""

    text: str
    result: RefusedResult | None = None


class SchemaViolation(OutputRefused):
    """Finished output does not validate. The grammar makes this impossible, save for rules in a type's own code.

    `audit_id`: that of the call's record.
    """

    text: str
    cause: str
    hint: str
    audit_id: str

    def __init__(self, text: str, cause: str, hint: str = _REPORT) -> None:
        super().__init__(f"constrained output breaks its schema: {cause}; {hint}. The text: {text[:500]!r}")
        self.text, self.cause, self.hint, self.audit_id = text, cause, hint, ""


class CheckFailed(OutputRefused):
    """Every attempt of the tier `checked` broke the schema. `text`, `violation`: the last one's; `attempts`: all."""

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
    """The grammar engine gave up; no unmasked token was emitted."""


class AuditError(TrimodeError):
    """An audit file, at `path`, that cannot be used."""

    path: Path


class AuditFileRefused(AuditError):
    """The path is no audit file, or cannot be read or written. `why`, in words."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}; an audit file is what trimode wrote itself, or a path where nothing is yet")
        self.path, self.why = path, why


class AuditWriteFailed(_WithResult, AuditError):
    """The record of a call could not be appended, because a disk is full, for example. The file holds nothing of it.

    `path`: the first file concerned, `paths`: all of them; other audit files have the record. `result`: what the call
    generated, with its value; None where it failed before. `audit_id`: the call's. `why`, in words.
    """

    def __init__(self, paths: Sequence[Path], why: str, audit_id: str, result: FinishedResult | None = None) -> None:
        kept = "" if result is None else "; error.result has what the call generated"
        super().__init__(f"{', '.join(map(str, paths))}: the record of call {audit_id} was not written: {why}{kept}")
        self.path, self.paths, self.why, self.audit_id = paths[0], tuple(paths), why, audit_id
        self.result = result


class BudgetExceeded(TrimodeError):
    """The session's budget of `what` (tokens, seconds or passes) leaves too little for `step` to start.

    Nothing, or fewer tokens than the shortest text of its schema. `spent` holds what running steps have reserved.
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
    """No function of that name was handed in. `known`: the names of those that were."""

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
    """A choice that the policy layer does not know or does not allow. `where`: the keys that lead to it from the top of
    a policy's table; empty where it stood in no table."""

    where: tuple[str, ...]

    def __init__(self, message: str, where: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.where = tuple(where)


class StepError(TrimodeError, TypeError):
    """A step function whose prompt or return annotation cannot be used."""
