"""What is left where the grammar engine can say no more of a text: one known text that completes it.

Knows the tokens of that text and what the engine asks of a `Constraint`. Does not know grammars. Its mask is no law:
every token passes, save an end, and gives way to the next of the known text, so that the result tells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from trimode.engine.constraint import allows

from .errors import GrammarRuntimeError
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class Epilogue:
    """`left`: tokens that complete the text, an end token last; None behind tokens that are not of it.

    `why`: what the grammar engine said.
    """

    vocabulary: Vocabulary
    left: list[int] | None
    why: str

    def mask(self) -> Tensor:
        """Raises GrammarRuntimeError where nothing is known."""
        if self.left is None:
            raise GrammarRuntimeError(self.why)
        return self.vocabulary.going_on

    def allows(self, token: int) -> bool:
        return self.left is not None and allows(self.mask(), token)

    def behind(self, token: int) -> Epilogue:
        return replace(self, left=None if self.left is None else self.vocabulary.rest(self.left, token))

    def ending(self, limit: int) -> list[int] | None:
        return None if self.left is None or len(self.left) > limit else self.left

    def closes(self, limit: int) -> bool:
        return self.left is not None and self.vocabulary.bytes_of(self.left) < limit
