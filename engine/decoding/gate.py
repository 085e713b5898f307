"""The gate between a mode and what restricts its output: a thinking budget, a token budget, a constraint.

Knows token ids and bit masks. Does not know grammars, schemas or text, nor which mode asks.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..constraint import Constraint, Thinking
from ..token_mask import all_but, allows, lone
from .token_budget import TokenBudget


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
        mask_words: int = 0,
        max_tokens: int = 0,
    ) -> None:
        self.constraint = constraint
        self.ends = frozenset(ends)
        self.thinking, self.mask_words = thinking, mask_words
        self.thinking_tokens = 0
        self.token_budget = None if constraint is None else token_budget_of(constraint, max_tokens, thinking)

    @property
    def constrains(self) -> bool:
        """Whether some token may be refused, here or later."""
        return self.constraint is not None or self.thinking is not None

    def mask(self) -> Tensor | None:
        """What may come next; None where everything may."""
        if self.thinking is not None:
            if self.thinking_tokens == self.thinking.budget:
                return lone(self.thinking.end, self.mask_words)
            return None if self.constraint is None else all_but(self.ends, self.mask_words)
        return None if self.constraint is None else self.constraint.mask()

    def forced(self) -> int | None:
        """The one token that may come next, where there is no choice."""
        run = self._forced_run()
        return run[0] if run else None

    def allows(self, token: int) -> bool:
        """Whether `token` may come next, where nothing is forced."""
        if self.thinking is None and self.constraint is not None:
            sure = (
                token not in self.ends
                and self.token_budget is not None
                and self.token_budget.surely_fits(self.constraint, token)
            )
            return sure or self.constraint.allows(token)
        mask = self.mask()
        return mask is None or allows(mask, token)

    def resolve(self, token: int) -> int:
        """`token`, chosen from the mask, or another where `token` would leave no room to end; the one to take next."""
        if self.token_budget is None or self.thinking is not None or token in self.ends:
            return token
        assert self.constraint is not None
        return self.token_budget.resolve(self.constraint, token)

    def advance(self, tokens: Sequence[int]) -> None:
        """Moves past `tokens`: the only ones allowed, or a single one that was settled."""
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
        """An independent gate at the same point; where nothing is held, there is nothing to copy."""
        if not self.constrains:
            return self
        other = Gate(None, (), self.thinking, self.mask_words)
        other.constraint = None if self.constraint is None else self.constraint.fork()
        other.token_budget = None if self.token_budget is None else self.token_budget.fork()
        other.ends, other.thinking_tokens = self.ends, self.thinking_tokens
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
    """Where an ending is known that fits behind the longest thinking; None where none is, and nothing is promised."""
    behind = max_tokens if thinking is None else max_tokens - thinking.budget - 1
    ending = constraint.completion(behind)
    return None if ending is None else TokenBudget(max_tokens, ending)
