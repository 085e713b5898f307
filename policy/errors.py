"""What can go wrong in the policy layer, one class a cause. Every message says what was given and what to do.

TrimodeError (engine)
├── SchemaError
│   ├── UnsupportedKeyword    the grammar cannot hold this keyword: pointer, keyword, hint
│   ├── SchemaViolation       finished output breaks its schema: a bug of trimode, or a rule in a type's own code
│   └── GrammarRuntimeError   the grammar engine stopped in the middle of a text
├── OutputCut                 max_tokens ended a typed output before it was complete
├── PolicyError               a mode, option, policy or configuration that does not exist or does not fit
└── StepError                 a step function that cannot be turned into a prompt
"""

from __future__ import annotations

from typing import Final

from trimode.engine.errors import TrimodeError

_REPORT: Final = "this is a bug of trimode, not of the model: please report it with the schema and the text"


class SchemaError(TrimodeError, ValueError):
    """A schema that cannot be used."""


class UnsupportedKeyword(SchemaError):
    """A keyword that the grammar cannot enforce, refused when the schema is defined."""

    def __init__(self, pointer: str, keyword: str, hint: str) -> None:
        super().__init__(f"schema keyword {keyword!r} at {pointer or '#'} cannot be enforced: {hint}")
        self.pointer, self.keyword, self.hint = pointer, keyword, hint


class SchemaViolation(SchemaError):
    """Finished output does not validate. The grammar makes this impossible, save for rules in a type's own code."""

    def __init__(self, text: str, cause: str, hint: str = _REPORT) -> None:
        super().__init__(f"constrained output breaks its schema: {cause}; {hint}. The text: {text[:500]!r}")
        self.text, self.cause = text, cause


class GrammarRuntimeError(SchemaError):
    """The grammar engine gave up; no unmasked token was emitted."""


class OutputCut(TrimodeError):
    """A typed output ran into max_tokens, so there is no value to return."""

    def __init__(self, text: str, max_tokens: int) -> None:
        super().__init__(f"output was cut by max_tokens={max_tokens} before its schema was complete; raise max_tokens")
        self.text, self.max_tokens = text, max_tokens


class PolicyError(TrimodeError, ValueError):
    """A choice that the policy layer does not know or does not allow."""


class StepError(TrimodeError, TypeError):
    """A step function whose prompt or return annotation cannot be used."""
