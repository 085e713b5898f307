"""The gate between a mode and what restricts its output: a thinking budget, then a token budget, then a constraint.

Knows token ids and bit masks. Does not know grammars, schemas or text, nor which mode asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from ..constraint import WHOLE, Constraint, Thinking
from ..result import Section
from ..token_mask import all_but, allows, lone
from .token_budget import TokenBudget

THINKING: Final = "thinking"
"""Kind of the section of an output in which the model thinks."""


class Gate:
    """What may come next, as modes ask it: a thinking budget first, if there is one, then a constraint, or none.

    While thinking is open every token is allowed, except that the end marker is forced when the budget is spent, and
    that a constrained output may not end before its constrained part has begun. `mask_words`: words of a mask row.
    `max_tokens`: tokens that the output may have; if the constraint knows a completion that fits, the output ends
    within them.
    """

    ends: frozenset[int]
    mask_words: int
    thinking_tokens: int
    token_budget: TokenBudget | None
    thought: bool

    def __init__(
        self,
        constraint: Constraint | None,
        ends: Sequence[int],
        thinking: Thinking | None = None,
        mask_words: int = 0,
        max_tokens: int = 0,
    ) -> None:
        self.constraint = constraint
        self.ends = frozenset(ends)
        self.thinking, self.mask_words = thinking, mask_words
        self.thinking_tokens, self.thought = 0, thinking is not None
        self.token_budget = None if constraint is None else token_budget_of(constraint, max_tokens, thinking)

    @property
    def section(self) -> Section:
        """The part of the output that the next token belongs to; thinking, where it was asked for, is part 0."""
        if self.thinking is not None:
            return Section(0, THINKING)
        number, kind = WHOLE if self.constraint is None else self.constraint.section
        return Section(number + self.thought, kind)

    @property
    def complete(self) -> bool:
        """Whether the output may be cut here: it is unconstrained, or complete without an end token."""
        return self.constraint is None or (self.thinking is None and self.constraint.completion(0) == [])

    @property
    def constrains(self) -> bool:
        """Whether some token may be refused, here or later."""
        return self.constraint is not None or self.thinking is not None

    def mask(self) -> Tensor | None:
        """Returns the mask of what may come next; None if every token may."""
        if self.thinking is not None:
            if self.thinking_tokens == self.thinking.budget:
                return torch.from_numpy(lone(self.thinking.end, self.mask_words))
            return None if self.constraint is None else torch.from_numpy(all_but(self.ends, self.mask_words))
        return None if self.constraint is None else self.constraint.mask()

    def forced(self) -> int | None:
        """Returns the only token that may come next; None if there is a choice."""
        run = self._forced_run()
        return run[0] if run else None

    def allows(self, token: int) -> bool:
        """Returns whether `token` may come next; asked where nothing is forced."""
        if self.thinking is None and self.constraint is not None:
            certain = (
                token not in self.ends
                and self.token_budget is not None
                and self.token_budget.surely_fits(self.constraint, token)
            )
            return certain or self.constraint.allows(token)
        mask = self.mask()
        return mask is None or allows(mask, token)

    def resolve(self, token: int) -> int:
        """Returns the token to take next: `token`, chosen from the mask, or a completion's if none fits after it."""
        if self.token_budget is None or self.thinking is not None or token in self.ends:
            return token
        assert self.constraint is not None
        return self.token_budget.resolve(self.constraint, token)

    def advance(self, tokens: Sequence[int]) -> None:
        """Moves past `tokens`: forced ones, or a single one that `resolve` returned."""
        for at, token in enumerate(tokens):
            if self.thinking is None:
                self._constrain([token for token in tokens[at:] if token not in self.ends])
                return
            self.thinking_tokens += 1
            if self.token_budget is not None:
                self.token_budget.remaining -= 1
            if token == self.thinking.end:
                self.thinking = None

    def fork(self) -> Gate:
        """Returns an independent gate at the same point; the gate itself if it constrains nothing."""
        if not self.constrains:
            return self
        other = Gate(None, (), self.thinking, self.mask_words)
        other.constraint = None if self.constraint is None else self.constraint.fork()
        other.token_budget = None if self.token_budget is None else self.token_budget.fork()
        other.ends, other.thinking_tokens, other.thought = self.ends, self.thinking_tokens, self.thought
        return other

    def take_forced(self, limit: int, section: Section | None = None) -> list[int]:
        """Moves past the forced tokens, up to an end token, the end of `section` or `limit`, and returns them."""
        run: list[int] = []
        while len(run) < limit and (tokens := self._forced_run()[: limit - len(run)]):
            run += tokens
            self.advance(tokens)
            if run[-1] in self.ends or section not in (None, self.section):
                break
        return run

    def _forced_run(self) -> Sequence[int]:
        if self.thinking is not None:
            return (self.thinking.end,) if self.thinking_tokens == self.thinking.budget else ()
        return () if self.constraint is None else self.constraint.forced()

    def _constrain(self, tokens: Sequence[int]) -> None:
        if self.constraint is None:
            return
        if self.token_budget is None:
            self.constraint.advance(tokens)
        elif tokens:
            self.constraint = self.token_budget.advance(self.constraint, tokens)


def token_budget_of(constraint: Constraint, max_tokens: int, thinking: Thinking | None) -> TokenBudget | None:
    """Returns a budget if a completion that fits after the longest thinking is known; None if none is known.

    Without a budget it is not promised that the output ends within `max_tokens`.
    """
    limit = max_tokens if thinking is None else max_tokens - thinking.budget - 1
    completion = constraint.completion(limit)
    return None if completion is None else TokenBudget(max_tokens, completion)
