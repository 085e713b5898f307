"""One run: steps of gradient, acceptance on held-out samples.

Knows a model with a trainable adapter, samples and a recipe. Does not know files.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from trimode.engine.models.model import Transformer

from .batches import Batch, Picked, batch_of, trunk_of
from .data.samples import Sample
from .forward import Known, Terms, known_rows, slot_rows
from .memory import Fit
from .objective import Scores, scores
from .picking import drafts_of, picked_at, width_at
from .processes import Processes
from .recipe import Recipe
from .trainable import parameters, terms_of

CLIP: Final = 1.0
"""Largest norm of a step's gradient."""
_BETAS: Final = (0.9, 0.99)
_HELD_DRAFTS: Final = 16
"""Drafts of each held-out sample that are measured."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did, over all processes. `loss`: mean over the weights; `accepted` tokens of `drafts` drafts."""

    number: int
    loss: float
    drafts: int
    accepted: int
    slots: int
    gradient: float
    rate: float


@dataclass(slots=True)
class Trainer:
    """Trains the adapter of `model`. `step`: steps done; `average`: the mean of late weights, which is what is kept."""

    model: Transformer
    recipe: Recipe
    samples: Sequence[Sample]
    held: Sequence[Sample]
    fit: Fit
    processes: Processes = field(default_factory=Processes)
    step: int = 0
    optimizer: torch.optim.AdamW = field(init=False)
    average: list[Tensor] = field(init=False)
    _known: dict[int, Known] = field(default_factory=dict[int, Known])
    _kept: int = 0

    def __post_init__(self) -> None:
        weights = parameters(self.model)
        self.optimizer = torch.optim.AdamW(weights, lr=self.recipe.rate, betas=_BETAS, weight_decay=0.0)
        self.average = [weight.detach().clone() for weight in weights]

    @property
    def dtype(self) -> torch.dtype:
        return cast(torch.dtype, getattr(torch, self.recipe.dtype))

    def advance(self) -> Step:
        """Takes one step."""
        weights = parameters(self.model)
        visits = range(self.processes.rank, self.recipe.samples, self.processes.world)
        picked = [one for visit in visits if (one := picked_at(self.samples, self.recipe, self.step, visit)).cuts]
        sums = [0.0] * 5
        for at in range(0, len(picked), self.fit.samples):
            found = self._learn(
                picked[at : at + self.fit.samples], f"{self.recipe.seed}:{self.step}:{self.processes.rank}:{at}"
            )
            sums = [a + b for a, b in zip(sums, found, strict=True)]
        for weight in weights:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        loss, weighed, drafts, accepted, slots = self.processes.summed([_grad(one) for one in weights], sums)
        for weight in weights:
            _grad(weight).div_(max(weighed, 1e-9))
        gradient = float(nn.utils.clip_grad_norm_(weights, CLIP))
        rate = self.recipe.rate_at(self.step)
        self._move(rate)
        self.step += 1
        return Step(self.step, loss / max(weighed, 1e-9), int(drafts), int(accepted), int(slots), gradient, rate)

    def held_out(self) -> float:
        """Returns accepted tokens a draft on the held-out samples, by the averaged weights."""
        width, drafts, accepted = max(self.recipe.blocks) - 1, 0, 0
        with self.averaged(), torch.no_grad():
            terms = terms_of(self.model, self.dtype)
            for at, sample in enumerate(self.held):
                rng = random.Random(f"{self.recipe.seed}:held:{at}")
                picked = Picked(sample, drafts_of(sample, width, _HELD_DRAFTS, 0.0, rng))
                if picked.cuts:
                    found, _ = self._scores(terms, [picked], width, rng)
                    drafts, accepted = drafts + found.drafts, accepted + found.accepted
        return accepted / max(drafts, 1)

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Puts the averaged weights into the model for a while."""
        weights = parameters(self.model)
        own = [one.detach().clone() for one in weights]
        _assign(weights, self.average)
        try:
            yield
        finally:
            _assign(weights, own)

    def state(self) -> dict[str, Any]:
        """Returns what the next step depends on, apart from recipe, samples and base."""
        weights = [one.detach() for one in parameters(self.model)]
        return {
            "step": self.step, "weights": weights, "average": self.average, "optimizer": self.optimizer.state_dict()
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` returned."""
        self.step = state["step"]
        _assign(parameters(self.model), state["weights"])
        _assign(self.average, state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _learn(self, picked: Sequence[Picked], seed: str) -> list[float]:
        """Adds the gradients of some samples; returns loss, weight, drafts, accepted and slots."""
        terms = terms_of(self.model, self.dtype)
        found, batch = self._scores(terms, picked, width_at(self.recipe, self.step), random.Random(seed))
        found.loss.backward()
        return [float(found.loss.detach()), found.weight, found.drafts, found.accepted, len(batch.noise)]

    def _scores(
        self, terms: Sequence[Terms], picked: Sequence[Picked], width: int, rng: random.Random
    ) -> tuple[Scores, Batch]:
        drafting = self.recipe.drafting
        device = self.model.frequencies.device
        batch = batch_of(picked, width + (not drafting.ahead), drafting, rng).to(device)
        known = [self._known_rows(one.sample) for one in picked]
        slots = slot_rows(self.model, terms, batch, known, self.fit.recompute)
        clean = torch.cat([one.hidden for one in known])
        return scores(clean, slots, self.model.diffusion_head.weight, batch, self.recipe.objective), batch

    def _known_rows(self, sample: Sample) -> Known:
        """Returns a sample's clean rows. They never change, so those that fit are kept for later rounds."""
        if (found := self._known.get(id(sample))) is not None:
            return found
        trunk, device = trunk_of(sample), self.model.frequencies.device
        found = known_rows(self.model, replace(trunk, **{n: getattr(trunk, n).to(device) for n in _MOVED}))
        if self._kept + found.size <= self.fit.kept:
            self._known[id(sample)], self._kept = found, self._kept + found.size
        return found

    def _move(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        keep = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, weight in zip(self.average, parameters(self.model), strict=True):
                mean.lerp_(weight, 1 - keep)


_MOVED: Final = ("ids", "positions", "seen")


def _grad(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return weight.grad


@torch.no_grad()
def _assign(weights: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, given, strict=True):
        weight.copy_(value)
