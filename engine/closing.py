"""The token budget of a constrained output: from its first token to its last, it is certain that an ending fits.

Knows counts, and of the constraint how to end from where it is. A choice is taken where behind it an ending is certain
or can be worked out; where none fits, the choice gives way to the next token of an ending. All of it depends on the
tokens alone, so every mode decides alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .constraint import Constraint


@dataclass(slots=True)
class Closing:
    """`left`: tokens that may still come; `ending`: of at most so many, or None where the constraint is sure of one."""

    left: int
    ending: list[int] | None
    _ahead: Constraint | None = None
    """The constraint behind the token just settled; None where that token is the next one of `ending`."""
    _behind: list[int] | None = None
    """`ending` there."""

    def settled(self, constraint: Constraint, token: int) -> int:
        """`token`, or the next one of an ending where nothing that fits is known behind `token`.

        The token returned is the one to advance by next.
        """
        self._ahead = None
        if self.ending and token == self.ending[0]:
            return token
        ahead = constraint.fork()
        ahead.advance([token])
        sure = ahead.closes(self.left - 1)
        self._behind = None if sure else ahead.ending(self.left - 1)
        if sure or self._behind:
            self._ahead = ahead
            return token
        self.ending = self.ending or constraint.ending(self.left)
        assert self.ending, "an ending that fits is certain at all times"
        return self.ending[0]

    def advance(self, constraint: Constraint, token: int) -> Constraint:
        """`constraint` past a token that `settled` returned, or past one that was the only one allowed."""
        self.left -= 1
        if self._ahead is not None:
            ahead, self.ending, self._ahead = self._ahead, self._behind, None
            return ahead
        assert self.ending is None or token == self.ending[0], "every ending begins with what is forced"
        constraint.advance([token])
        self.ending = None if self.ending is None else self.ending[1:]
        return constraint

    def fork(self) -> Closing:
        """A copy at the same point, with nothing settled."""
        return Closing(self.left, self.ending)
