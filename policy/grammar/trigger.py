"""Where prose opens a call: a marker in running text, found as tokens are written.

Knows token bytes and masks. Does not know what follows the marker. Tokens may split the marker in any way, and one of
them may reach beyond it, as long as what it adds is the text that has to follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from trimode.engine.token_mask import Mask, all_but

from .vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Opened:
    """The marker is complete; `beyond`: the bytes of the same token after it."""

    beyond: bytes


class Trigger:
    """Finds `marker` in running text; `rest`: the text that has to follow it.

    `control`: the id of the marker where it is a control token, which ordinary tokens cannot spell. `banned`: no token
    may complete the marker.
    """

    def __init__(
        self, vocabulary: Vocabulary, marker: str, rest: str, control: int | None = None, banned: bool = False
    ) -> None:
        self._vocabulary, self._marker, self._rest = vocabulary, marker.encode(), rest.encode()
        self._control, self._banned = control, banned
        self._after: list[dict[int, int]] = _automaton(self._marker)
        last = self._marker[-1:]
        self._closing: list[int] = [token for token, text in enumerate(vocabulary.token_bytes) if last in text]
        self.refused: Callable[[int], frozenset[int]] = lru_cache(maxsize=None)(self._refused)
        self.mask: Callable[[int], Mask] = lru_cache(maxsize=None)(self._mask)

    def after(self, matched: int, token: int) -> int | Opened:
        """Returns how many bytes of the marker the text ends with after `token`, or that it is complete."""
        if self._control is not None:
            return Opened(b"") if token == self._control else 0
        text = self._vocabulary.token_bytes[token]
        for at, byte in enumerate(text, start=1):
            matched = self._after[matched].get(byte, 0)
            if matched == len(self._marker):
                return Opened(text[at:])
        return matched

    def _refused(self, matched: int) -> frozenset[int]:
        """Tokens that complete the marker and may not: it is banned, or they go on with another text than `rest`."""
        tokens = self._closing if self._control is None else [self._control]
        opened = ((token, self.after(matched, token)) for token in tokens)
        return frozenset(
            token
            for token, after in opened
            if isinstance(after, Opened) and (self._banned or not self._rest.startswith(after.beyond))
        )

    def _mask(self, matched: int) -> Mask:
        return all_but(self.refused(matched), self._vocabulary.mask_words)


def _automaton(marker: bytes) -> list[dict[int, int]]:
    """Returns for each number of matched bytes the number after each byte that does not lead to 0 (Knuth, Morris and
    Pratt, 1977)."""
    border, table = 0, list[dict[int, int]]()
    for at, byte in enumerate(marker):
        table.append({**(table[border] if at else {}), byte: at + 1})
        if at:
            border = table[border].get(byte, 0)
    return table
