"""A training text as token ids, and the drafts that are cut from it.

Knows ids, flags and places. Does not know tokenizers, files or tensors. A text is a trunk and branches: other answers
that continue the trunk from some place on, such as those of the base itself. A draft begins where decoding drafts:
after the last known token, its seed, which stands before a token of the model's own. Its slots follow the seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Answer:
    """A branch: the ids that follow the trunk's first `at` tokens. `forced` [L]: a schema left no choice."""

    at: int
    ids: Numbers
    forced: Flags


@dataclass(frozen=True, slots=True)
class Sample:
    """ids [L] of the trunk. own [L]: the token is the model's, not the prompt's. `answers`: what the base wrote itself,
    so that each token is its choice."""

    ids: Numbers
    own: Flags
    answers: tuple[Answer, ...] = ()

    @property
    def tokens(self) -> int:
        """Number of tokens of trunk and branches."""
        return len(self.ids) + sum(len(answer.ids) for answer in self.answers)


class Cut(NamedTuple):
    """One draft. `seed`: row of the last known token; `first`: row of the token after it; `slots`: those after the seed
    for which the text has a token to predict. Rows count the trunk's tokens, then those of each branch."""

    seed: int
    first: int
    slots: int


def cuts(sample: Sample, slots: int, rng: random.Random, share: float = 1.0) -> list[Cut]:
    """Returns drafts of at most `slots` slots at a random `share` of the places where a draft may begin.

    Such a place is before a token of the model's own that no schema forces, with another one behind it. A draft ends
    with its run of own tokens: the last slot predicts the run's last token.
    """
    found = list[Cut]()
    for begin, end in runs(sample.own):
        for first in range(max(begin, 1), end - 1):
            if rng.random() < share:
                found.append(Cut(first - 1, first, min(slots, end - 1 - first)))
    start = len(sample.ids)
    for answer in sample.answers:
        for at in range(len(answer.ids) - 1):
            if not answer.forced[at] and rng.random() < share:
                seed = start + at - 1 if at else answer.at - 1
                found.append(Cut(seed, start + at, min(slots, len(answer.ids) - 1 - at)))
        start += len(answer.ids)
    return found


def runs(flags: Flags) -> list[tuple[int, int]]:
    """Returns (first, end) of each run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.view(np.int8), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
