"""The fallback where the grammar engine fails in the middle of a text: one known text that completes it.

Knows the tokens of that text and the `Constraint` protocol. Does not know grammars. The mask allows every token but an
end, since no grammar is left to ask; the token budget replaces what is sampled by the known text's next token and the
result reports the replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trimode.engine.token_mask import Mask, allows

from ..errors import GrammarRuntimeError
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class KnownCompletion:
    """A known completion that answers in place of a grammar.

    `remaining`: the text that completes the output; None after tokens that depart from it. `reason`: the grammar
    engine's message.
    """

    vocabulary: Vocabulary
    remaining: bytes | None
    reason: str

    def mask(self) -> Mask:
        """All tokens but the ends. Raises GrammarRuntimeError where no completion is known."""
        if self.remaining is None:
            raise GrammarRuntimeError(self.reason)
        return self.vocabulary.all_but_ends

    def allows(self, token: int) -> bool:
        return self.remaining is not None and allows(self.mask(), token)

    def after(self, tokens: Sequence[int]) -> KnownCompletion:
        text = self.vocabulary.text_of(tokens)
        if self.remaining is None or not self.remaining.startswith(text):
            return replace(self, remaining=None)
        return replace(self, remaining=self.remaining[len(text) :])

    def completion(self, limit: int) -> list[int] | None:
        found = None if self.remaining is None else [*self.vocabulary.tokens_of(self.remaining), *self.vocabulary.ends]
        return None if found is None or len(found) > limit else found
