"""The token budget of a constrained output: from its first token on, an ending that fits is known.

Knows counts, and of the constraint how to end from where it is. A chosen token is free while an upper bound on the
ending's length, raised by what each choice may add, stays below what is left. Only near that line is an ending worked
out; a choice behind which none fits then gives way to the next token of the one that is known. All of it depends on
the tokens alone, so every mode decides alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .constraint import Constraint


_MARGIN: Final = 8
"""What plain text may cost for a moment: half a character or an escape that has to be completed."""


@dataclass(slots=True)
class Closing:
    """`left`: tokens that may still come; `bound`: an ending is at most this long; `ending`: one, where worked out."""

    left: int
    bound: int
    ending: list[int] | None
    _chosen: int | None = None
    """What the token just settled adds to the bound; None where none was settled."""
    _behind: list[int] | None = None
    """An ending behind the token just settled."""

    def settled(self, constraint: Constraint, token: int) -> int:
        """`token`, or the next one of the known ending where nothing that fits is known behind `token`.

        The token returned is the one to advance by next.
        """
        grows = constraint.growth(token)
        if self._tight(grows) and self.ending is None:
            self.ending = constraint.ending(self.left)
            self.bound = self.left if self.ending is None else len(self.ending)
        self._chosen = grows
        if not self._tight(grows) or (self.ending and token == self.ending[0]):
            return token
        ahead = constraint.fork()
        ahead.advance([token])
        self._behind = ahead.ending(self.left - 1)
        return token if self._behind is not None or self.ending is None else self.ending[0]

    def advance(self, token: int) -> None:
        """Moves past a token that `settled` returned, or one that was the only one allowed."""
        self.left -= 1
        if self.ending and token == self.ending[0]:
            self.ending = self.ending[1:]
        else:
            self.ending = self._behind
        known = self.bound - 1 if self._chosen is None else self.bound + self._chosen
        self.bound = known if self.ending is None else len(self.ending)
        self._chosen = self._behind = None

    def fork(self) -> Closing:
        return replace(self)

    def _tight(self, grows: int) -> bool:
        return self.bound + max(grows, _MARGIN) >= self.left
