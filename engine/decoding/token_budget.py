"""The token budget of a constrained output: from its first token to its last, it is certain that an ending fits.

Knows counts, and of the constraint how to end from where it is. A choice is taken where behind it an ending is certain
or can be worked out; where none fits, the choice gives way to the next token of an ending. All of it depends on the
tokens alone, so every mode decides alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..constraint import Constraint


@dataclass(slots=True)
class TokenBudget:
    """`left`: tokens that may still come; `ending`: of at most so many, or None where the constraint is sure of one."""

    remaining: int
    completion: list[int] | None
    _resolved: tuple[Constraint | None, list[int] | None] | None = None
    """Behind the token just settled: the constraint, if it is there already, and `ending`. None: `ending` goes on."""

    def surely_fits(self, constraint: Constraint, token: int) -> bool:
        """Whether it is known at once that `token`, no end, is allowed where nothing is forced, and leaves room."""
        return constraint.leads(token, self.remaining - 1)

    def resolve(self, constraint: Constraint, token: int) -> int:
        """`token`, or the next one of an ending where nothing that fits is known behind `token`.

        The token returned is the one to advance by next.
        """
        self._resolved = None
        if self.completion and token == self.completion[0]:
            return token
        if self.surely_fits(constraint, token):
            self._resolved = None, None
            return token
        ahead = constraint.fork()
        ahead.advance([token])
        behind = ahead.completion(self.remaining - 1)
        if behind:
            self._resolved = ahead, behind
            return token
        self.completion = self.completion or constraint.completion(self.remaining)
        assert self.completion, "an ending that fits is certain at all times"
        return self.completion[0]

    def advance(self, constraint: Constraint, tokens: Sequence[int]) -> Constraint:
        """`constraint` past the token that `settled` returned, or past those that were the only ones allowed."""
        self.remaining -= len(tokens)
        if self._resolved is not None:
            (ahead, self.completion), self._resolved = self._resolved, None
            if ahead is not None:
                return ahead
        elif self.completion is not None:
            assert self.completion[: len(tokens)] == list(tokens), "every ending begins with what is forced"
            self.completion = self.completion[len(tokens) :]
        constraint.advance(tokens)
        return constraint

    def fork(self) -> TokenBudget:
        """A copy at the same point, with nothing settled."""
        return TokenBudget(self.remaining, self.completion)
