"""A run from its files: base, texts and folder to a trained adapter.

Knows every part and the order of the work. Does not know the command line: `report` hears of each step.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from trimode.engine.models.adapter_drafting import DRAFTING
from trimode.engine.models.adapter_weights import load_adapter
from trimode.engine.models.checkpoint import Checkpoint
from trimode.engine.models.model import Transformer
from trimode.engine.models.tokenizer import Tokenizer

from .card import write_card
from .data.rendering import Renderer
from .data.samples import Sample
from .data.texts import Text
from .errors import DataError, TrainingError
from .folder import Folder
from .memory import fit, free_bytes
from .plots import write_plots
from .processes import Processes
from .recipe import Recipe
from .trainable import add_trainable, begin_with
from .trainer import Step, Trainer

Report = Callable[[Step, "float | None", float], object]
"""What hears of a step: its counts, acceptance on held-out samples where it was measured, and seconds so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`data`: the files' names, for the card. `start_from`: an adapter whose weights a new run begins with.
    `save_every` seconds, and `measure_every` steps."""

    base: Checkpoint
    data: tuple[str, ...]
    folder: Folder
    recipe: Recipe
    processes: Processes
    device: torch.device
    start_from: Path | None = None
    save_every: float = 180.0
    measure_every: int = 50

    def train(self, model: Transformer, samples: Sequence[Sample], report: Report) -> list[str]:
        """Trains to the recipe's last step, from the kept state if there is one; returns notes."""
        held, taught = self._split(samples)
        identity = {"base_sha256": self.base.weights_sha256, "data_sha256": digest(samples)}
        state = self.folder.state(identity, self.recipe)
        self._adapt(model)
        sizes = fit(model.config, self.recipe, -(-self.recipe.samples // self.processes.world), free_bytes(self.device))
        if state is not None and state["world"] == self.processes.world:
            sizes = type(sizes)(**(asdict(sizes) | {key: state["fit"][key] for key in ("samples", "recompute")}))
        trainer = Trainer(model, self.recipe, taught, held, sizes, self.processes)
        spent = 0.0
        if state is not None:
            trainer.restore(state)
            spent = state["seconds"]
        if self.processes.first:
            self.folder.rewind(trainer.step)
        self._loop(trainer, identity, spent, report)
        return self._finish(trainer) if self.processes.first else []

    def _loop(self, trainer: Trainer, identity: dict[str, str], spent: float, report: Report) -> None:
        began = saved = time.monotonic()
        while trainer.step < self.recipe.steps:
            step = trainer.advance()
            if not self.processes.first:
                continue
            last = trainer.step == self.recipe.steps
            measured = trainer.held_out() if last or trainer.step % self.measure_every == 0 else None
            now = time.monotonic()
            self.folder.log({**_line(step), "seconds": round(spent + now - began, 2), "held_out": measured})
            report(step, measured, spent + now - began)
            if last or now - saved >= self.save_every:
                saved = now
                kept = {**trainer.state(), "seconds": spent + now - began, "world": self.processes.world}
                self.folder.keep({**kept, "fit": asdict(trainer.fit)}, identity, self.recipe)
                self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        base = {
            "architecture": trainer.model.config.architecture,
            "name": self.base.name,
            "weights_sha256": self.base.weights_sha256,
        }
        with trainer.averaged():
            self.folder.write_adapter(trainer.model, self.recipe, base)

    def _finish(self, trainer: Trainer) -> list[str]:
        """Writes adapter, plots and card; returns notes."""
        self._write(trainer)
        notes = write_plots(self.folder)
        write_card(self.folder, self.base, self.recipe, self.data)
        return notes

    def _adapt(self, model: Transformer) -> None:
        if self.start_from is None:
            return add_trainable(model, self.recipe)
        if not (self.start_from / DRAFTING).is_file() and not model.config.family.masks:
            raise TrainingError(f"--start-from {self.start_from}: no {DRAFTING} there")
        load_adapter(model, self.start_from, torch.float32, self.device)
        layers = range(model.config.num_hidden_layers)
        begin_with(model, self.recipe, [model.adapter_terms(layer) for layer in layers])

    def _split(self, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Returns held-out and other samples; where the base wrote some, those are held out."""
        order = list(range(len(samples)))
        random.Random(f"{self.recipe.seed}:held").shuffle(order)
        order.sort(key=lambda at: not samples[at].answers)
        held = set(order[: self.recipe.held_out])
        if len(held) == len(samples):
            raise DataError(f"{len(samples)} samples, and {len(held)} are held out: give more text, or hold out fewer")
        return [samples[at] for at in sorted(held)], [one for at, one in enumerate(samples) if at not in held]


def rendered(texts: Iterable[Text], tokenizer: Tokenizer, base: Transformer, context: int) -> list[Sample]:
    """Returns the samples of all texts that hold tokens of the model."""
    renderer = Renderer(tokenizer, base.config, min(context, base.config.max_position_embeddings))
    return [sample for text in texts for sample in renderer.samples(text)]


def digest(samples: Sequence[Sample]) -> str:
    """Returns the SHA-256 of what samples hold."""
    found = hashlib.sha256()
    for sample in samples:
        for part in (sample.ids, sample.own, *(x for one in sample.answers for x in (one.ids, one.forced))):
            found.update(len(part).to_bytes(8, "little") + part.tobytes())
        found.update(repr([one.at for one in sample.answers]).encode())
    return found.hexdigest()


def _line(step: Step) -> dict[str, Any]:
    return {
        "step": step.number, "loss": round(step.loss, 4), "accepted": round(step.accepted / max(step.drafts, 1), 4),
        "drafts": step.drafts, "slots": step.slots, "gradient": round(step.gradient, 4), "rate": step.rate,
    }  # fmt: skip
