"""The folder of a run: where it goes on, what it logged, and the adapter so far.

Knows files. Does not know how anything is trained. A file takes its place in one step, so a run may be killed at any
time; what is there afterwards is whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from trimode.engine.models.adapter_drafting import DRAFTING, drafting_fields
from trimode.engine.models.adapter_weights import save_adapter
from trimode.engine.models.model import Transformer

from .errors import TrainingError
from .recipe import Recipe

STATE: Final = "state.pt"
LOG: Final = "log.jsonl"
OWN_TEXT: Final = "own.jsonl"
CARD: Final = "README.md"


@dataclass(frozen=True, slots=True)
class Folder:
    """`path` is made when something is written."""

    path: Path

    def state(self, identity: Mapping[str, Any], recipe: Recipe) -> dict[str, Any] | None:
        """Returns the kept state, None if there is none. Raises TrainingError where it is of another run."""
        file = self.path / STATE
        if not file.is_file():
            return None
        kept: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        differs = recipe.differs(kept["recipe"]) or next(
            (f"{key} was {kept[key]} and is {value}" for key, value in identity.items() if kept[key] != value), ""
        )
        if differs:
            raise TrainingError(
                f"{file} is of another run: {differs}. Take the options that it had, or another --out; "
                f"--start-from {self.path} begins a new run with its weights"
            )
        return kept

    def keep(self, state: Mapping[str, Any], identity: Mapping[str, Any], recipe: Recipe) -> None:
        """Writes the state."""
        self.path.mkdir(parents=True, exist_ok=True)
        part = self.path / f"{STATE}.part"
        with part.open("wb") as file:
            torch.save({**state, **identity, "recipe": recipe.as_dict()}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.path / STATE)

    def write_adapter(self, model: Transformer, recipe: Recipe, base: Mapping[str, Any]) -> None:
        """Writes PEFT's files in bf16, and how the adapter drafts, for the base of that name and digest."""
        part = self.path / "part"
        save_adapter(model, part, torch.bfloat16)
        fields = drafting_fields(recipe.drafting, base) | {"block_lengths": [min(recipe.blocks), max(recipe.blocks)]}
        (part / DRAFTING).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        for file in sorted(part.iterdir()):
            os.replace(file, self.path / file.name)
        part.rmdir()

    def lines(self) -> list[dict[str, Any]]:
        """Returns what was logged."""
        file = self.path / LOG
        if not file.is_file():
            return []
        whole = file.read_text(encoding="utf-8")
        return [json.loads(line) for line in whole[: whole.rfind("\n") + 1].splitlines()]

    def rewind(self, step: int) -> None:
        """Drops the lines of steps that are taken again."""
        kept = [line for line in self.lines() if line["step"] <= step]
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / LOG).write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def log(self, line: Mapping[str, Any]) -> None:
        """Appends one line."""
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
