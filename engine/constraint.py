"""How a grammar plugs into decoding: the protocol that the engine asks.

Knows token ids and bit masks. Does not know grammars, schemas or text. End tokens never reach a constraint: a mask row
holds an end bit exactly where the text may end, and the engine handles the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Thinking:
    """The output opens with thinking, which the token `end` closes; it is forced after `budget` tokens without one."""

    end: int
    budget: int


class Constraint(Protocol):
    """A matcher over token ids at one point of the text.

    `mask` is the law; the others say parts of it sooner.
    """

    def mask(self) -> Tensor:
        """[ceil(V / 32)] int32 on CPU; bit t of word t // 32 is set where token t may come next (or end the text)."""
        ...

    def forced(self) -> Sequence[int]:
        """Tokens that the masks allow alone, one behind the other, as far as that is known; an end may be the last."""
        ...

    def allows(self, token: int, /) -> bool:
        """Whether the mask allows `token`."""
        ...

    def advance(self, tokens: Sequence[int]) -> None:
        """Moves past `tokens`, each of which was allowed by the mask before it."""
        ...

    def fork(self) -> Constraint:
        """An independent matcher at the same point."""
        ...

    def completion(self, limit: int, /) -> list[int] | None:
        """Tokens that complete the text from here, an end token last; None where none of at most `limit` is known."""
        ...

    def leads(self, token: int, limit: int, /) -> bool:
        """Whether it is certain, without a search, that `ending(limit)` finds one behind `token`, where none is forced.

        False of a token that is not allowed.
        """
        ...
