"""Given text against the masks of a grammar, token by token.

Knows the constraint protocol and one tokenizer. Does not know schemas, or how they are compiled.
"""

from __future__ import annotations

from functools import cached_property

from trimode.engine.constraint import Constraint
from trimode.engine.models.tokenizer import Tokenizer
from trimode.engine.token_mask import allows


class Walker:
    """Walks texts through matchers, token by token, each allowed by the mask before it is taken."""

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self._tokenizer, self._end = tokenizer, end

    def refused_at(self, matcher: Constraint, text: str) -> int | None:
        """Where in `text` the grammar refuses to go on (its length: it may not end there), None where it takes all."""
        at = 0
        while at < len(text):
            took = self._run(matcher, text[at:]) or self._other(matcher, text[at:])
            if not took:
                return at
            at += took
        return None if allows(matcher.mask(), self._end) else at

    def _run(self, matcher: Constraint, rest: str) -> int:
        """Takes the tokenizer's own tokens for `rest` as far as they are allowed; the number of characters taken."""
        ids, taken = self._tokenizer.encode(rest), 0
        while taken < len(ids) and allows(matcher.mask(), ids[taken]):
            matcher.advance(ids[taken : taken + 1])
            taken += 1
        said = self._tokenizer.decode(ids[:taken])
        return len(said) if rest.startswith(said) else 0

    def _other(self, matcher: Constraint, rest: str) -> int:
        """Takes the longest allowed token that `rest` begins with: inside a forced run only one spelling is allowed."""
        for length in range(min(len(rest), max(map(len, self._ids))), 0, -1):
            token = self._ids.get(rest[:length])
            if token is not None and allows(matcher.mask(), token):
                matcher.advance([token])
                return length
        return 0

    @cached_property
    def _ids(self) -> dict[str, int]:
        found = {self._tokenizer.token(token): token for token in reversed(range(self._tokenizer.vocab_size))}
        return {text: token for text, token in found.items() if text and text not in self._tokenizer.markers}
