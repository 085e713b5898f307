"""Which samples and drafts a step takes: a pure function of (seed, step).

Knows samples and a recipe. Does not know tensors. Samples come in the order of a new shuffle for each round through
them; the visits of one step may be shared out among processes and passes without changing what they are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from .batches import Picked
from .data.samples import Cut, Sample, cuts
from .recipe import Recipe


def width_at(recipe: Recipe, step: int) -> int:
    """Returns the number of slots of a draft that predict something, in one step."""
    return random.Random(f"{recipe.seed}:width:{step}").choice(recipe.blocks) - 1


def picked_at(samples: Sequence[Sample], recipe: Recipe, step: int, visit: int) -> Picked:
    """Returns the sample and the drafts of one visit of a step; no drafts where the sample has no place for them."""
    round_, at = divmod(step * recipe.samples + visit, len(samples))
    sample = samples[_order(recipe.seed, round_, len(samples))[at]]
    rng = random.Random(f"{recipe.seed}:{step}:{visit}")
    return Picked(sample, drafts_of(sample, width_at(recipe, step), recipe.drafts, recipe.recorded, rng))


def drafts_of(sample: Sample, width: int, most: int, recorded: float, rng: random.Random) -> list[Cut]:
    """Returns at most `most` drafts, of which those in recorded text are taken with the probability `recorded`, if the
    sample has answers of the base."""
    trunk, share = len(sample.ids), recorded if sample.answers else 1.0
    found = [cut for cut in cuts(sample, width, rng) if cut.first >= trunk or rng.random() < share]
    return sorted(rng.sample(found, min(most, len(found))))


@lru_cache(maxsize=4)
def _order(seed: int, round_: int, count: int) -> list[int]:
    order = list(range(count))
    random.Random(f"{seed}:order:{round_}").shuffle(order)
    return order
