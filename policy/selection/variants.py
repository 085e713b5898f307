"""Variants, which are modes with their options, and those of them that `auto` compares.

Knows modes and options. Does not know their prices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from trimode.engine.result import Mode

from .settings import Settings


@dataclass(frozen=True, slots=True)
class Variant:
    """A mode with its options, as policies compare it; None where the mode has no such option, or for its default."""

    mode: Mode
    block_length: int | None = None
    rows: int | None = None
    threshold: float | None = None

    def __str__(self) -> str:
        options = (self.block_length, self.rows)
        parts = [self.mode, *(str(option) for option in options if option is not None)]
        return ":".join(parts) + ("" if self.threshold is None else f"@{self.threshold:g}")

    @classmethod
    def of(cls, mode: Mode, given: Settings) -> Variant:
        """Returns a variant of `mode` with those of the given options that the mode has."""
        match mode:
            case "ar":
                return cls("ar")
            case "quadratic_spec":
                return cls("quadratic_spec", given.block_length, given.rows)
            case _:
                return cls(mode, given.block_length)

    @property
    def settings(self) -> Settings:
        return Settings(mode=self.mode, block_length=self.block_length, rows=self.rows, threshold=self.threshold)


AR: Final = Variant("ar")

VARIANTS: Final = (
    Variant("ar"),
    *(Variant("linear_spec", length) for length in (4, 6, 8, 16, 32)),
    *(Variant("quadratic_spec", length, rows) for length, rows in ((4, 1), (6, 1), (6, 2), (8, 2), (16, 2))),
    *(Variant("quadratic_spec", length) for length in (6, 12)),
    *(Variant("lookup_spec", length) for length in (4, 8, 16)),
    *(Variant("diffusion", length) for length in (8, 16, 32)),
)
"""In the order of which the first is taken where two are expected to cost the same."""


def with_given(variant: Variant, settings: Settings) -> Variant:
    """Returns `variant` with the block length and rows that were given, where its mode has these options."""
    if variant.mode == "ar" or (settings.block_length is None and settings.rows is None):
        return variant
    length = settings.block_length or variant.block_length
    if variant.mode == "quadratic_spec":
        return replace(variant, block_length=length, rows=settings.rows or variant.rows)
    return replace(variant, block_length=length)
