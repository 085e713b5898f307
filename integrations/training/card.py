"""The model card of a trained adapter, written from its run.

Knows the log, the recipe and the base. Does not know the licence of anybody's data, and says so.
"""

from __future__ import annotations

from typing import Any, Final

from trimode.engine.models.checkpoint import Checkpoint
from trimode.engine.models.published import PUBLISHED

from .folder import CARD, Folder
from .recipe import Recipe

_SHOWN: Final = 12
"""Rows of the learning curve."""


def write_card(folder: Folder, base: Checkpoint, recipe: Recipe, data: tuple[str, ...]) -> None:
    """Writes README.md."""
    (folder.path / CARD).write_text(card(folder.lines(), base, recipe, data), encoding="utf-8")


def card(lines: list[dict[str, Any]], base: Checkpoint, recipe: Recipe, data: tuple[str, ...]) -> str:
    """Returns the card's text."""
    published = PUBLISHED.get(base.name)
    name = published.hub if published else base.name
    held = [line for line in lines if line["held_out"] is not None]
    last = lines[-1]
    slots = sum(line["slots"] for line in lines)
    rows = "\n".join(
        f"| {line['step']:,} | {line['seconds'] / 60:,.1f} | {line['loss']:.3f} | {line['accepted']:.2f} | "
        f"{line['held_out']:.2f} |"
        for line in _thinned(held)
    )
    facts = {
        "base": f"{name}, weights sha256 `{base.weights_sha256}`",
        "adapter": f"LoRA, rank {recipe.rank}, on {', '.join(recipe.projections)}; bf16",
        "drafts": f"attention {recipe.attention}, a slot predicts the {_PREDICTS[recipe.predicts]}, blocks of "
        f"{', '.join(map(str, recipe.blocks))} tokens, noise {_noise(recipe)}",
        "objective": f"{recipe.objective}, teacher: the base in the same pass",
        "steps": f"{last['step']:,} of {recipe.steps:,}, {slots:,} slots, {last['seconds'] / 3600:,.1f} hours",
        "seed": str(recipe.seed),
        "data": ", ".join(data),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return _CARD.format(name=name, table=table, rows=rows)


_PREDICTS: Final = {"next": "token after its own", "own": "token of its own place"}
_CARD: Final = """---
base_model: {name}
library_name: peft
tags: [trimode, draft-adapter, speculative-decoding]
---

# Draft adapter for {name}

A LoRA that acts on draft rows alone: the base decides every token, so outputs are those of the base, and only their
speed changes. Loaded by trimode: `Engine.load(base, adapter=DIR)`.

| | |
| --- | --- |
{table}

Accepted tokens a draft while it trained: leading tokens of a draft that are the base's own choice, on samples that were
not trained on (held-out) and in the last step (training).

| step | minutes | loss | training | held-out |
| ---: | ---: | ---: | ---: | ---: |
{rows}

The adapter is adapted from the base and learned from the data named above: their licences apply to it. Write them here
before you publish it.
"""


def _noise(recipe: Recipe) -> str:
    first, last = recipe.noise
    return f"id {first}" if first == last else f"random ids {first} to {last}"


def _thinned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns at most `_SHOWN` lines, the last one among them."""
    if len(lines) <= _SHOWN:
        return lines
    every = len(lines) / _SHOWN
    return [lines[min(len(lines) - 1, round((at + 1) * every) - 1)] for at in range(_SHOWN)]
