"""How some weights draft: what stands in the slots, what their rows see and predict, and what is decided with them.

Plain values of a family or of an adapter. Knows token ids and positions. Does not know modes, tensors or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LINEAR_BLOCK: Final = 32
QUADRATIC_BLOCK: Final = 16
"""Lengths of a block in the modes that draft, if neither the request nor the weights fix them."""
_WORD: Final = (1 << 64) - 1
_STEP: Final = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, the step of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Ids in the slots of a draft, `first` to `last`: one id, the mask, or random ones."""

    first: int
    last: int

    @classmethod
    def mask(cls, token: int) -> Noise:
        return cls(first=token, last=token)

    def ids(self, seed: int, positions: Sequence[int]) -> tuple[int, ...]:
        """Returns the id at each position: a pure function of (seed, position), uniform in the range to 2^-32.

        So a draft has the same slots whenever it is decoded again.
        """
        if self.first == self.last:
            return (self.first,) * len(positions)
        size = self.last - self.first + 1
        return tuple(self.first + (_mixed(_mixed(seed) + position) * size >> 64) for position in positions)


def _mixed(counter: int) -> int:
    """Returns 64 random bits for a counter: one step of SplitMix64 from that state."""
    bits = (counter * _STEP + _STEP) & _WORD
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & _WORD
    return bits ^ bits >> 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafting:
    """How the slots of a draft are written, run and read.

    The seed is the last known token, after which the slots stand. `causal`: a slot sees the slots up to itself, not all
    of them. `ahead`: a slot predicts the position after its own. `exact_first`: `linear_spec` takes the seed's own
    causal logits for the next token, if the request leaves that open. `seed_in_draft`: the seed may be a row of the
    draft, which takes the adapter and sees the slots; otherwise it always stands in the trunk. `longest`: the longest
    block that the drafter was trained for, in tokens with the seed; None if that is not known. `fills`: blocks are
    filled, as `diffusion` does, by slots after a trunk, with the adapter.
    """

    noise: Noise
    causal: bool = False
    ahead: bool = False
    exact_first: bool = False
    seed_in_draft: bool = True
    longest: int | None = None
    fills: bool = False

    def block_length(self, given: int | None, default: int) -> int:
        """Returns a block's length: the request's, else the mode's `default`, but no longer than was trained for."""
        if given is not None:
            return given
        return default if self.longest is None else min(default, self.longest)
