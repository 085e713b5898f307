"""What is left where the grammar engine can say no more of a text: one known text that completes it.

Knows the tokens of that text and what the engine asks of a `Constraint`. Does not know grammars. Its mask is no law:
every token passes, save an end, and gives way to the next of the known text, so that the result tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from trimode.engine.token_mask import allows

from ..errors import GrammarRuntimeError
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class KnownCompletion:
    """`left`: the text that completes the output; None behind tokens that are not of it.

    `why`: what the grammar engine said.
    """

    vocabulary: Vocabulary
    left: bytes | None
    why: str

    def mask(self) -> Tensor:
        """Raises GrammarRuntimeError where nothing is known."""
        if self.left is None:
            raise GrammarRuntimeError(self.why)
        return self.vocabulary.going_on

    def allows(self, token: int) -> bool:
        return self.left is not None and allows(self.mask(), token)

    def behind(self, tokens: Sequence[int]) -> KnownCompletion:
        text = self.vocabulary.text_of(tokens)
        goes_on = self.left is not None and self.left.startswith(text)
        return replace(self, left=self.left[len(text) :] if self.left is not None and goes_on else None)

    def completion(self, limit: int) -> list[int] | None:
        found = None if self.left is None else [*self.vocabulary.tokens_of(self.left), *self.vocabulary.ends]
        return None if found is None or len(found) > limit else found
