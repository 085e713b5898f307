"""Targets for plain text: a regular expression, a list of texts, a grammar in llguidance's dialect of Lark.

Knows which texts fit each of them, and who validates that besides the grammar. Does not know tokens or how grammars are
compiled. The value of a finished text is the text.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final

from ..errors import MalformedGrammar, SchemaError, SchemaTooComplex, SchemaViolation, UnsupportedSyntax, shown
from ..json_schema import is_slow, misread

_LONGEST: Final = {"regex": 10_000, "choice": 100_000, "lark": 100_000}
"""Characters of the definition of each kind."""


@dataclass(frozen=True)
class TextTarget(ABC):
    """Base class of `Regex`, `Choice` and `Lark`. `kind` names them in records and errors."""

    kind: ClassVar[str] = ""

    @property
    @abstractmethod
    def given(self) -> Any:
        """The caller's definition, as JSON."""

    @property
    @abstractmethod
    def validator(self) -> str | None:
        """The name of what validates finished text besides the grammar; None where nothing can."""

    @property
    def oracle(self) -> str | None:
        """The old name of `validator`, kept for one release."""
        return self.validator

    @abstractmethod
    def fits(self, text: str, /) -> bool:
        """Whether the validator accepts `text`; True without a validator."""

    @cached_property
    def document(self) -> dict[str, Any]:
        """The target as records store it; `schema_of` reads it back."""
        return {f"x-{self.kind}": self.given}

    @cached_property
    def text(self) -> str:
        return json.dumps(self.document)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.document, sort_keys=True).encode()).hexdigest()

    def parse(self, text: str) -> str:
        """The text itself. Raises SchemaViolation where the validator refuses it."""
        if not self.fits(text):
            raise SchemaViolation(text, f"{self.validator} refuses it")
        return text

    def remarks(self, _: str) -> list[str]:
        """A note where only the grammar enforces the target."""
        if self.validator:
            return []
        return [f"the {self.kind} was enforced by the grammar alone: nothing else validates it"]

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: Any) -> Any:
        raise SchemaError(
            f"{cls.__name__} holds a whole output, not a field; write Field(pattern=...) or Literal there"
        )


@dataclass(frozen=True)
class Regex(TextTarget):
    """Text that a regular expression matches in full: Python's syntax, as far as grammars support it.

    Not supported: look-around, back references, possessive repetition, flags other than `i` and `s`. `\\d`, `\\w` and
    `\\s` match ASCII (and Unicode spaces). Python's `re.fullmatch` validates finished text, except for patterns on
    which it could take very long.
    """

    pattern: str
    kind: ClassVar[str] = "regex"

    def __post_init__(self) -> None:
        _check_text(self.kind, self.pattern)
        try:
            with warnings.catch_warnings(action="ignore"):
                re.compile(self.pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise MalformedGrammar(self.kind, str(error)) from None
        if (reason := misread(self.pattern)) is not None:
            raise UnsupportedSyntax(self.kind, "pattern", reason)

    @property
    def given(self) -> str:
        return self.pattern

    @property
    def validator(self) -> str | None:
        return None if is_slow(self.pattern) else "Python's re.fullmatch"

    def fits(self, text: str, /) -> bool:
        return self.validator is None or re.fullmatch(self.pattern, text) is not None


@dataclass(frozen=True, init=False)
class Choice(TextTarget):
    """One of several texts, decoded token by token under a grammar. `Engine.choice` scores whole texts instead."""

    options: tuple[str, ...]
    kind: ClassVar[str] = "choice"

    def __init__(self, options: Sequence[str]) -> None:
        given = () if isinstance(options, str) or not isinstance(options, Sequence) else tuple(options)
        for option in given:
            _check_text(self.kind, option)
        if not given or len(set(given)) < len(given):
            hint = f"expected a list of one or more texts, each of them once, found {shown(options)}"
            raise MalformedGrammar(self.kind, hint)
        _check_text(self.kind, "".join(given))
        object.__setattr__(self, "options", given)

    @property
    def given(self) -> list[str]:
        return list(self.options)

    @property
    def validator(self) -> str:
        return "the list of choices"

    def fits(self, text: str, /) -> bool:
        return text in self.options


@dataclass(frozen=True)
class Lark(TextTarget):
    """Text of a grammar in llguidance's dialect of Lark, whose first rule is `start`; nothing else can validate it.

    Not supported: rule attributes (because with `max_tokens=` llguidance cannot roll back), embedded JSON Schemas,
    control tokens and engine options.
    """

    grammar: str
    kind: ClassVar[str] = "lark"

    def __post_init__(self) -> None:
        _check_text(self.kind, self.grammar)
        bare = _LITERAL.sub(lambda found: " " * len(found.group()), self.grammar)
        for what, (pattern, hint) in _UNSUPPORTED.items():
            if found := pattern.search(bare):
                line = bare.count("\n", 0, found.start()) + 1
                raise UnsupportedSyntax(
                    self.kind, self.grammar[slice(*found.span())].strip(), f"line {line}: {what} {hint}"
                )

    @property
    def given(self) -> str:
        return self.grammar

    @property
    def validator(self) -> None:
        return None

    def fits(self, _: str, /) -> bool:
        return True


_LITERAL: Final = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|\#[^\n]*|/(?:\\.|[^/\\\n])+/', re.DOTALL)
_UNSUPPORTED: Final = {
    "rule attributes": (re.compile(r"\w\[[^\]\n]*\]"), "are not supported: with some, llguidance cannot roll back"),
    "engine options": (re.compile(r"%llguidance\b"), "cannot be set by a grammar"),
    "embedded schemas": (re.compile(r"%json\b"), "are not validated as schemas; pass the JSON Schema itself"),
    "control tokens": (re.compile(r"<[^>\n]*>"), "are no text; only the chat template writes them"),
}  # fmt: skip
"""Unsupported constructs of Lark: a pattern that finds them, and the reason."""
FORMS: Final[dict[str, type[TextTarget]]] = {f"x-{kind.kind}": kind for kind in (Regex, Choice, Lark)}
"""Classes by the key of their document."""


def _check_text(kind: str, given: object) -> None:
    """Raises MalformedGrammar or SchemaTooComplex for a definition that is no text or too long."""
    if not isinstance(given, str):
        raise MalformedGrammar(kind, f"expected text, found {shown(given)}")
    if not given.isascii() and any("\ud800" <= character <= "\udfff" for character in given):
        raise MalformedGrammar(kind, "it holds half a surrogate pair, which is no character")
    if len(given) > _LONGEST[kind]:
        raise SchemaTooComplex("", kind, f"{len(given):,} characters; at most {_LONGEST[kind]:,} are read")
