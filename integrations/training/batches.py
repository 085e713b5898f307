"""Samples and their drafts as the tensors of one step.

Knows ids, positions and who sees whom. Does not know models. Shapes: C clean rows and D drafts of W slots, both of all
samples of the step one after another; N = D W.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trimode.engine.drafting import Drafting

from .data.samples import Cut, Sample

Array = npt.NDArray[np.generic]


class Picked(NamedTuple):
    """A sample and the drafts taken from it in one step."""

    sample: Sample
    cuts: Sequence[Cut]


@dataclass(frozen=True, slots=True)
class Trunk:
    """The clean rows of one sample: ids and positions [c]; seen [c, c] bool, the rows that each of them sees."""

    ids: Tensor
    positions: Tensor
    seen: Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """The slots of one sample in a batch, and for each of them the clean rows that it sees [n, c] bool."""

    slots: slice
    seen: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """noise and places [N]: ids and positions of slots. For each of them: `judge`, the clean row of all samples that
    says what it has to predict; `label`, that token where the base wrote the text, else -1; `forced`, whether a schema
    forces it; `counts`, whether there is one.

    `width`: slots of each draft, W; `skipped`: of these, the first ones that predict nothing new; `causal`: a slot sees
    those up to itself, else all of its draft.
    """

    noise: Tensor
    places: Tensor
    judge: Tensor
    label: Tensor
    forced: Tensor
    counts: Tensor
    parts: tuple[Part, ...]
    width: int
    skipped: int
    causal: bool

    def to(self, device: torch.device) -> Batch:
        """Returns the batch on a device."""
        moved = {
            name: getattr(self, name).to(device) for name in ("noise", "places", "judge", "label", "forced", "counts")
        }
        parts = tuple(Part(part.slots, part.seen.to(device)) for part in self.parts)
        return Batch(**moved, parts=parts, width=self.width, skipped=self.skipped, causal=self.causal)


def trunk_of(sample: Sample) -> Trunk:
    """Returns the clean rows of a sample: its own tokens, then those of each answer."""
    positions = [np.arange(len(sample.ids)), *(np.arange(len(one.ids)) + one.at for one in sample.answers)]
    ids = [sample.ids, *(one.ids for one in sample.answers)]
    return Trunk(
        torch.from_numpy(np.concatenate(ids)).long(),
        torch.from_numpy(np.concatenate(positions)).long(),
        torch.from_numpy(_seen(sample)),
    )


def batch_of(picked: Sequence[Picked], width: int, drafting: Drafting, rng: random.Random) -> Batch:
    """Returns the slots of the samples' drafts, `width` for each."""
    rows = [_columns(one, width, drafting) for one in picked]
    cleans = np.cumsum([0, *(one.sample.tokens for one in picked)]).tolist()
    slots = np.cumsum([0, *(len(one["places"]) for one in rows)]).tolist()
    for one, start in zip(rows, cleans, strict=False):
        one["judge"] = one["judge"] + start
    parts = tuple(
        Part(slice(*slots[at : at + 2]), torch.from_numpy(_known(one, width))) for at, one in enumerate(picked)
    )
    found = {name: torch.from_numpy(np.concatenate([one[name] for one in rows])) for name in rows[0]}
    first, last = drafting.noise.first, drafting.noise.last
    noise = torch.tensor([rng.randint(first, last) for _ in range(slots[-1])])
    tensors = {name: x if x.dtype == torch.bool else x.long() for name, x in found.items()}
    skipped = int(not drafting.ahead)
    return Batch(noise=noise, **tensors, parts=parts, width=width, skipped=skipped, causal=drafting.causal)


def _columns(picked: Picked, width: int, drafting: Drafting) -> dict[str, Array]:
    """Returns the columns of one sample. A slot that predicts its own token is judged one row earlier."""
    sample, cuts = picked
    trunk = len(sample.ids)
    ids = np.concatenate([sample.ids, *(one.ids for one in sample.answers)])
    forced = np.concatenate([np.zeros(trunk, np.bool_), *(one.forced for one in sample.answers)])
    at = np.concatenate([np.arange(trunk), *(np.arange(len(one.ids)) + one.at for one in sample.answers)])
    slot = np.tile(np.arange(width), len(cuts))
    seed, first, slots = (np.repeat(column, width) for column in np.asarray(cuts, np.int64).T)
    back = 0 if drafting.ahead else 1
    counts = (slot < slots + back) & (slot >= back)
    judge = np.where(counts, first + slot - back, 0)
    answer = np.where(counts, judge + 1, 0)
    return {
        "places": at[seed] + 1 + slot,
        "judge": judge,
        "label": np.where(answer >= trunk, ids[answer], -1),
        "forced": forced[answer] & counts,
        "counts": counts,
    }


def _seen(sample: Sample) -> npt.NDArray[np.bool_]:
    seen = np.tri(sample.tokens, dtype=np.bool_)
    start = len(sample.ids)
    for answer in sample.answers:
        end = start + len(answer.ids)
        seen[start:end, answer.at : start] = False
        start = end
    return seen


def _known(picked: Picked, width: int) -> npt.NDArray[np.bool_]:
    """Returns [d W, c]: a slot sees what its seed sees."""
    return np.repeat(_seen(picked.sample)[[cut.seed for cut in picked.cuts]], width, axis=0)
