"""What one training run of a draft adapter is: sizes, drafts, schedule. Knows numbers and words only.

A run is a function of its recipe, its texts and its base: step t draws its samples, places and noise by (seed, t)
alone, so a run that was killed goes on with the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from trimode.engine.drafting import Drafting, Noise
from trimode.engine.models.adapter import PROJECTIONS

from .errors import TrainingError
from .objective import OBJECTIVES

DTYPES: Final = ("bfloat16", "float32")
_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "objective": OBJECTIVES,
    "attention": ("causal", "block"),
    "predicts": ("next", "own"),
    "dtype": DTYPES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """`blocks`: lengths of drafts in tokens with the token before them, one of them for each step. `noise`: FIRST and
    LAST id in the slots, one id twice. `samples` of each step, and at most `drafts` of each sample, a share of
    `recorded` of them where the text is not the base's own.

    `rate` rises over `warm` steps, and falls to nothing over the last `decay` share of the steps. `average`: what the
    mean of the weights, which is what is kept, holds on to in each step. `context`: tokens of a sample at most.
    """

    noise: tuple[int, int]
    steps: int = 2000
    samples: int = 8
    drafts: int = 24
    blocks: tuple[int, ...] = (4, 6, 8)
    rank: int = 32
    scale: float = 1.0
    projections: tuple[str, ...] = tuple(PROJECTIONS)
    attention: str = "causal"
    predicts: str = "next"
    objective: str = "kl"
    recorded: float = 0.5
    rate: float = 2e-3
    warm: int = 30
    decay: float = 0.2
    average: float = 0.98
    context: int = 1024
    held_out: int = 16
    seed: int = 0
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        """Raises TrainingError, which names the field and what it may be."""
        for name, allowed in _WORDS.items():
            if (given := getattr(self, name)) not in allowed:
                raise TrainingError(f"{name}={given!r}: expected {', '.join(allowed)}")
        for name in ("steps", "samples", "drafts", "rank", "warm", "held_out"):
            if (number := getattr(self, name)) < 1:
                raise TrainingError(f"{name}={number!r}: expected 1 or more")
        if not self.blocks or not all(3 <= block <= 256 for block in self.blocks):
            raise TrainingError(f"blocks={list(self.blocks)}: expected lengths from 3 to 256")
        if unknown := [name for name in self.projections if name not in PROJECTIONS]:
            raise TrainingError(f"projections: {unknown[0]!r} is none of {', '.join(PROJECTIONS)}")
        if not 0 <= self.recorded <= 1 or not 0 <= self.decay <= 1 or not self.rate > 0:
            raise TrainingError("recorded and decay are shares from 0 to 1, and the rate is above 0")

    @staticmethod
    def checked_dtype(given: str) -> str:
        """Returns a dtype's name. Raises TrainingError."""
        if given not in DTYPES:
            raise TrainingError(f"dtype={given!r}: expected {', '.join(DTYPES)}")
        return given

    @property
    def drafting(self) -> Drafting:
        """How the adapter will draft."""
        return Drafting(
            noise=Noise(first=self.noise[0], last=self.noise[1]),
            causal=self.attention == "causal",
            ahead=self.predicts == "next",
            exact_first=True,
            seed_in_draft=False,
            longest=max(self.blocks),
        )

    def rate_at(self, step: int) -> float:
        """Returns the learning rate of a step: warm-up, stable, linear decay."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.rate * min(1.0, (step + 1) / self.warm, left)

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON has them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def differs(self, kept: Mapping[str, Any]) -> str:
        """Returns the first field in which a kept recipe is another one, with both values; empty if none is."""
        mine = self.as_dict()
        names = (field.name for field in fields(self) if mine[field.name] != kept.get(field.name))
        return next((f"{name} was {kept.get(name)!r} and is {mine[name]!r}" for name in names), "")
