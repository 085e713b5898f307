"""Walker: checks a given text against the masks of a grammar, token by token.

Knows the constraint protocol and one tokenizer. Does not know schemas, or how they are compiled.
"""

from __future__ import annotations

from functools import cached_property

from trimode.engine.models.tokenizer import Tokenizer
from trimode.engine.token_mask import allows

from .matcher import Matcher


class Walker:
    """Walks texts through matchers, token by token, each allowed by the mask before it is taken."""

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self._tokenizer, self._end = tokenizer, end

    def refused_at(self, matcher: Matcher, text: str) -> int | None:
        """The index of the character at which the grammar refuses `text`; None where it accepts the whole text.

        The length of `text` means that the text may not end there.
        """
        at = 0
        while at < len(text):
            taken = self._canonical(matcher, text[at:]) or self._longest(matcher, text[at:])
            if not taken:
                return at
            at += taken
        return None if allows(matcher.words(), self._end) else at

    def _canonical(self, matcher: Matcher, rest: str) -> int:
        """Consumes the canonical tokens of `rest` as far as masks allow; returns the number of characters consumed."""
        ids, taken = self._tokenizer.encode(rest), 0
        while taken < len(ids) and allows(matcher.words(), ids[taken]):
            matcher.advance(ids[taken : taken + 1])
            taken += 1
        text = self._tokenizer.decode(ids[:taken])
        return len(text) if rest.startswith(text) else 0

    def _longest(self, matcher: Matcher, rest: str) -> int:
        """Consumes the longest allowed token that `rest` begins with, because forced text has one allowed tokenization.

        Returns the number of characters consumed, 0 where no token fits.
        """
        for length in range(min(len(rest), max(map(len, self._ids))), 0, -1):
            token = self._ids.get(rest[:length])
            if token is not None and allows(matcher.words(), token):
                matcher.advance([token])
                return length
        return 0

    @cached_property
    def _ids(self) -> dict[str, int]:
        """The lowest id of each text, without empty texts and markers."""
        found = {self._tokenizer.token(token): token for token in reversed(range(self._tokenizer.vocab_size))}
        return {text: token for text, token in found.items() if text and text not in self._tokenizer.markers}
