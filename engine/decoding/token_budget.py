"""The token budget of a constrained output: at every token it is certain that a completion fits.

Knows counts, and of the constraint how to complete the text from where it is. A choice is taken if a completion after
it is certain or can be found; if none fits, the choice is replaced by the next token of a known completion. This
depends on the tokens alone, so every mode decides alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..constraint import Constraint


@dataclass(slots=True)
class TokenBudget:
    """The `remaining` tokens of an output, and a `completion` of at most so many.

    `completion` is None if the constraint is certain that one exists.
    """

    remaining: int
    completion: list[int] | None
    _resolved: tuple[Constraint | None, list[int] | None] | None = None
    """Constraint and `completion` after the token just resolved. None: `completion` continues with its next tokens.

    Its constraint is None if the constraint has still to advance.
    """

    def surely_fits(self, constraint: Constraint, token: int) -> bool:
        """Returns whether it is known without a search that `token` is allowed and that a completion fits after it.

        `token` is not an end token, and nothing is forced.
        """
        return constraint.leads(token, self.remaining - 1)

    def resolve(self, constraint: Constraint, token: int) -> int:
        """Returns `token`, or the next one of a completion if none that fits is known after `token`.

        The next call of `advance` must be for the token returned.
        """
        self._resolved = None
        if self.completion and token == self.completion[0]:
            return token
        if self.surely_fits(constraint, token):
            self._resolved = None, None
            return token
        ahead = constraint.fork()
        ahead.advance([token])
        completion = ahead.completion(self.remaining - 1)
        if completion is not None:
            self._resolved = ahead, completion
            return token
        self.completion = self.completion or constraint.completion(self.remaining)
        assert self.completion, "a completion that fits is known at all times"
        return self.completion[0]

    def advance(self, constraint: Constraint, tokens: Sequence[int]) -> Constraint:
        """Moves `constraint` past the token that `resolve` returned, or past forced ones, and returns it."""
        self.remaining -= len(tokens)
        if self._resolved is not None:
            (ahead, self.completion), self._resolved = self._resolved, None
            if ahead is not None:
                return ahead
        elif self.completion is not None:
            assert self.completion[: len(tokens)] == list(tokens), "every completion begins with the forced tokens"
            self.completion = self.completion[len(tokens) :]
        constraint.advance(tokens)
        return constraint

    def fork(self) -> TokenBudget:
        """Returns a copy at the same point, without a resolved token."""
        return TokenBudget(self.remaining, self.completion)
