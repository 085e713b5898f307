"""A mode with its options, as policies compare it, and what is known of modes that draft; those that `auto` compares.

Knows modes and settings. Does not know costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from trimode.engine.drafting import LINEAR_BLOCK, QUADRATIC_BLOCK
from trimode.engine.options import LookupSpecOptions
from trimode.engine.result import Mode

from .settings import Settings

LENGTHS: Final[Mapping[str, int]] = {
    "linear_spec": LINEAR_BLOCK, "quadratic_spec": QUADRATIC_BLOCK, "lookup_spec": LookupSpecOptions().block_length,
}  # fmt: skip
"""Block lengths of drafting modes where nobody says one and the drafter was trained for them."""
ADAPTED: Final[Mapping[Mode, float]] = {"linear_spec": 0.5, "quadratic_spec": 1.0, "lookup_spec": 0.0}
"""Part of a drafting mode's passes that use the draft adapter; none in other modes."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A mode with its options, as policies compare it; None where the mode has no such option, or for its default."""

    mode: Mode
    block_length: int | None = None
    rows: int | None = None
    threshold: float | None = None
    exact_first: bool | None = None

    def __str__(self) -> str:
        options = (self.block_length, self.rows)
        parts = [self.mode, *(str(option) for option in options if option is not None)]
        layout = "" if self.exact_first is None else f" exact_first={str(self.exact_first).lower()}"
        return ":".join(parts) + ("" if self.threshold is None else f"@{self.threshold:g}") + layout

    @classmethod
    def of(cls, mode: Mode, given: Settings) -> Variant:
        """Returns a variant of `mode` with those of the given options that the mode has."""
        match mode:
            case "ar":
                return cls("ar")
            case "quadratic_spec":
                return cls("quadratic_spec", given.block_length, given.rows)
            case "linear_spec":
                return cls("linear_spec", given.block_length, exact_first=given.exact_first)
            case _:
                return cls(mode, given.block_length)

    def with_given(self, given: Settings) -> Variant:
        """Returns the variant with the options that were given, where its mode has these options."""
        if self.mode == "ar":
            return self
        length = given.block_length or self.block_length
        if self.mode == "quadratic_spec":
            return replace(self, block_length=length, rows=given.rows or self.rows)
        exact_first = given.exact_first if self.mode == "linear_spec" else None
        return replace(self, block_length=length, exact_first=exact_first)

    @property
    def settings(self) -> Settings:
        return Settings(
            mode=self.mode,
            block_length=self.block_length,
            rows=self.rows,
            threshold=self.threshold,
            exact_first=self.exact_first,
        )


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
