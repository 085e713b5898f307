"""The variants that `auto` compares, and what becomes of them where the caller has given an option.

Knows modes and options. Does not know their prices.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from .pricing import Variant
from .settings import Settings

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
