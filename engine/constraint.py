"""The protocol by which a grammar constrains decoding.

Knows token ids and bit masks. Does not know grammars, schemas or text. End tokens never reach a constraint: a mask row
has an end bit exactly where the text may end, and the engine handles the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from .result import Section

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Thinking:
    """A thinking budget: output opens with thinking, closed by the token `end`, forced after `budget` tokens."""

    end: int
    budget: int


WHOLE: Final = Section(0, "")
"""The section of a constraint whose text has no parts."""


class Constraint(Protocol):
    """A matcher over token ids at one point of the text.

    `mask` is authoritative. `forced`, `allows` and `leads` answer special cases of it more cheaply and must never
    contradict it.
    """

    @property
    def section(self) -> Section:
        """The part of the text that the next token belongs to; numbers go up by one from part to part."""
        ...

    def mask(self) -> Tensor:
        """Returns [ceil(V / 32)] int32 on CPU: bit t % 32 of word t // 32 is set if t may come next or end the text."""
        ...

    def forced(self) -> Sequence[int]:
        """Returns the known forced tokens in order, each alone allowed by its mask; the last may be an end token."""
        ...

    def allows(self, token: int, /) -> bool:
        """Returns whether the mask allows `token`."""
        ...

    def advance(self, tokens: Sequence[int]) -> None:
        """Moves past `tokens`, each of which was allowed by the mask before it."""
        ...

    def fork(self) -> Constraint:
        """Returns an independent matcher at the same point."""
        ...

    def completion(self, limit: int, /) -> list[int] | None:
        """Returns tokens that complete the text, an end token last; None if none of at most `limit` tokens is known.

        An empty list, only for a `limit` of 0: the text may be cut here, because it is complete without an end token.
        """
        ...

    def leads(self, token: int, limit: int, /) -> bool:
        """Returns whether it is certain, without a search, that `completion(limit)` succeeds after `token`.

        It is asked where nothing is forced, and is False for a token that is not allowed.
        """
        ...
