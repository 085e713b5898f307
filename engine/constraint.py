"""How a grammar plugs into decoding: the protocol the engine asks, and the gate that the modes hold.

Knows token ids and bit masks. Does not know grammars, schemas or text. End tokens never reach a constraint: a mask row
holds an end bit exactly where the text may end, and the engine handles the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Constraint(Protocol):
    """A matcher over token ids at one point of the text.

    `mask` is the law: forced tokens are the rows with one bit, and every mode reads the same rows.
    """

    def mask(self) -> Tensor:
        """[ceil(V / 32)] int32 on CPU; bit t of word t // 32 is set where token t may come next (or end the text)."""
        ...

    def advance(self, tokens: Sequence[int]) -> None:
        """Moves past `tokens`, each of which was allowed by the mask before it."""
        ...

    def fork(self) -> Constraint:
        """An independent matcher at the same point."""
        ...


def only(mask: Tensor) -> int | None:
    """The one token that `mask` allows, or None where it allows several."""
    words = mask.numpy().view(np.uint32)
    at = np.flatnonzero(words)
    if at.size != 1:
        return None
    word = int(words[at[0]])
    return int(at[0]) * 32 + word.bit_length() - 1 if word & (word - 1) == 0 else None


def allows(mask: Tensor, token: int) -> bool:
    return bool(int(mask[token // 32]) >> (token % 32) & 1)


class Gate:
    """A constraint, or none, as the modes use it: unconstrained text passes everything and forces nothing."""

    def __init__(self, constraint: Constraint | None, ends: Sequence[int]) -> None:
        self.constraint = constraint
        self.ends = frozenset(ends)

    def mask(self) -> Tensor | None:
        return None if self.constraint is None else self.constraint.mask()

    def advance(self, tokens: Sequence[int]) -> None:
        if self.constraint is not None:
            self.constraint.advance([token for token in tokens if token not in self.ends])

    def fork(self) -> Gate:
        return Gate(None if self.constraint is None else self.constraint.fork(), tuple(self.ends))

    def forced(self, limit: int) -> list[int]:
        """Takes the tokens that the grammar leaves no choice about, up to an end token or `limit`."""
        run: list[int] = []
        while self.constraint is not None and len(run) < limit:
            token = only(self.constraint.mask())
            if token is None:
                break
            run.append(token)
            if token in self.ends:
                break
            self.constraint.advance([token])
        return run


def stack(rows: Sequence[Tensor | None]) -> Tensor | None:
    """[R, W] of mask rows, or None for unconstrained text."""
    present = [row for row in rows if row is not None]
    return torch.stack(present) if present else None
