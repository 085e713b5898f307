"""How a grammar plugs into decoding: the protocol the engine asks, and the gate that the modes hold.

Knows token ids and bit masks. Does not know grammars, schemas or text. End tokens never reach a constraint: a mask row
holds an end bit exactly where the text may end, and the engine handles the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .closing import Closing


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

    def ending(self, limit: int, /) -> list[int] | None:
        """Tokens that complete the text from here, an end token last; None where none of at most `limit` is known."""
        ...

    def leads(self, token: int, limit: int, /) -> bool:
        """Whether it is certain, without a search, that `ending(limit)` finds one behind `token`, where none is forced.

        False of a token that is not allowed.
        """
        ...


def allows(mask: Tensor, token: int) -> bool:
    return bool(int(mask[token // 32]) >> (token % 32) & 1)


def lone(token: int, words: int) -> Tensor:
    """[words] mask that allows `token` alone."""
    mask = np.zeros(words, dtype=np.uint32)
    mask[token // 32] = np.uint32(1 << token % 32)
    return torch.from_numpy(mask.view(np.int32))


def all_but(tokens: Iterable[int], words: int) -> Tensor:
    """[words] mask that allows everything else."""
    mask = np.full(words, 0xFFFFFFFF, dtype=np.uint32)
    for token in tokens:
        mask[token // 32] &= ~np.uint32(1 << token % 32)
    return torch.from_numpy(mask.view(np.int32))


class Gate:
    """What may come next, as the modes use it: a thinking budget first, if there is one, then a constraint, or none.

    While thinking is open everything passes, except that the end marker is forced when the budget is spent, and that
    a constrained output may not end before its constrained part has begun. `words`: length of a mask row. `room`:
    tokens that the output may have; where the constraint knows an ending that fits, the output ends within them.
    """

    def __init__(
        self,
        constraint: Constraint | None,
        ends: Sequence[int],
        thinking: Thinking | None = None,
        words: int = 0,
        room: int = 0,
    ) -> None:
        self.constraint = constraint
        self.ends = frozenset(ends)
        self.thinking, self.words = thinking, words
        self.thought = 0
        self.closing = None if constraint is None else closing_of(constraint, room, thinking)

    @property
    def holds(self) -> bool:
        """Whether some token may be refused, here or later."""
        return self.constraint is not None or self.thinking is not None

    def mask(self) -> Tensor | None:
        """What may come next; None where everything may."""
        if self.thinking is not None:
            if self.thought == self.thinking.budget:
                return lone(self.thinking.end, self.words)
            return None if self.constraint is None else all_but(self.ends, self.words)
        return None if self.constraint is None else self.constraint.mask()

    def forced(self) -> int | None:
        """The one token that may come next, where there is no choice."""
        run = self._forced_run()
        return run[0] if run else None

    def allows(self, token: int) -> bool:
        """Whether `token` may come next, where nothing is forced."""
        if self.thinking is None and self.constraint is not None:
            sure = token not in self.ends and self.closing is not None and self.closing.sure(self.constraint, token)
            return sure or self.constraint.allows(token)
        mask = self.mask()
        return mask is None or allows(mask, token)

    def settled(self, token: int) -> int:
        """`token`, chosen from the mask, or another where `token` would leave no room to end; the one to take next."""
        if self.closing is None or self.thinking is not None or token in self.ends:
            return token
        assert self.constraint is not None
        return self.closing.settled(self.constraint, token)

    def advance(self, tokens: Sequence[int]) -> None:
        """Moves past `tokens`: the only ones allowed, or a single one that was settled."""
        for at, token in enumerate(tokens):
            if self.thinking is None:
                self._constrain([token for token in tokens[at:] if token not in self.ends])
                return
            self.thought += 1
            if self.closing is not None:
                self.closing.left -= 1
            if token == self.thinking.end:
                self.thinking = None

    def fork(self) -> Gate:
        """An independent gate at the same point; where nothing is held, there is nothing to copy."""
        if not self.holds:
            return self
        other = Gate(None, (), self.thinking, self.words)
        other.constraint = None if self.constraint is None else self.constraint.fork()
        other.closing = None if self.closing is None else self.closing.fork()
        other.ends, other.thought = self.ends, self.thought
        return other

    def take_forced(self, limit: int) -> list[int]:
        """Moves past the tokens about which there is no choice, up to an end token or `limit`, and returns them."""
        run: list[int] = []
        while len(run) < limit and (tokens := self._forced_run()[: limit - len(run)]):
            run += tokens
            self.advance(tokens)
            if run[-1] in self.ends:
                break
        return run

    def _forced_run(self) -> Sequence[int]:
        if self.thinking is not None:
            return (self.thinking.end,) if self.thought == self.thinking.budget else ()
        return () if self.constraint is None else self.constraint.forced()

    def _constrain(self, tokens: Sequence[int]) -> None:
        if self.constraint is None:
            return
        if self.closing is None:
            self.constraint.advance(tokens)
        elif tokens:
            self.constraint = self.closing.advance(self.constraint, tokens)


def closing_of(constraint: Constraint, room: int, thinking: Thinking | None) -> Closing | None:
    """Where an ending is known that fits behind the longest thinking; None where none is, and nothing is promised."""
    behind = room if thinking is None else room - thinking.budget - 1
    ending = constraint.ending(behind)
    return None if ending is None else Closing(room, ending)
