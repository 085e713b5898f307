"""Trains the reference checkpoint: tokenizer, AR stage, joint stage, draft adapter. Killed and restarted it goes on.

    python scripts/train.py --pack DIR --out runs/reference

`--out` receives `state.pt` (resume), `log.jsonl` (one line an interval) and `checkpoint/` in the NLD file format,
rewritten at every save. Seeded: the same arguments give the same windows, masks and initial weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from training import data, tokenizer
from training.adapter import draft_losses
from training.objective import Batch, Losses, losses, make_batch
from training.recipe import Noise, Recipe, Stage

from trimode.engine.models.config import ModelConfig
from trimode.engine.models.model import Transformer
from trimode.engine.models.tokenizer import Tokenizer
from trimode.engine.models.weights import save_weights
from trimode.integrations.bench.episodes import read_episodes

HERE = Path(__file__).parent
TEMPLATE = HERE / "training" / "chat_template.jinja"
LOG_EVERY = 10
LENGTHS = Noise(regions=20, widths=(32, 16, 8, 4), known=(1, 1, 1, 1, 0, 0, 2, 3, 5), ends=True)
"""Blocks as the modes make them: of any length, with a seed, without, with forced tokens; and what is behind an end."""


def stages(args: argparse.Namespace) -> list[Stage]:
    return [
        Stage(name="ar", steps=args.ar_steps, windows=12),
        Stage(name="joint", steps=args.joint_steps, windows=8, noise=Noise(regions=16), alpha=args.alpha, decay=0.5),
        Stage(name="lengths", steps=args.lengths_steps, windows=8, noise=LENGTHS, alpha=args.alpha, lr=2e-3, decay=0.9),
        Stage(name="adapter", steps=args.adapter_steps, windows=8, noise=LENGTHS, lr=2e-3, decay=0.7, adapter=True),
    ]


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    recipe = replace(Recipe(), seed=args.seed)
    print(json.dumps({"recipe": asdict(recipe), "stages": [asdict(stage) for stage in stages(args)]}))
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(args, recipe)
    for index, stage in enumerate(stages(args)):
        if index >= run.stage:
            run.train(index, stage)
    run.export()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, required=True, help="folder with the training shards, NAME.jsonl.gz")
    parser.add_argument("--out", type=Path, default=Path("runs/reference"))
    parser.add_argument("--ar-steps", type=int, default=800)
    parser.add_argument("--joint-steps", type=int, default=900)
    parser.add_argument("--lengths-steps", type=int, default=800)
    parser.add_argument("--adapter-steps", type=int, default=150)
    parser.add_argument("--alpha", type=float, default=1.0, help="weight of the diffusion loss (the paper has 0.3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=100, help="steps between saves")
    parser.add_argument("--compile", action="store_true", help="torch.compile the forward pass")
    return parser.parse_args()


class Run:
    """Model, optimisers, position in the recipe; saves and restores all of it."""

    def __init__(self, args: argparse.Namespace, recipe: Recipe) -> None:
        self.args, self.recipe = args, recipe
        self.tokenizer = self._tokenizer()
        self.model = _initial(recipe)
        self.forward = torch.compile(self.model, dynamic=False) if args.compile else self.model
        self.stage, self.step, self.tokens = 0, 0, 0
        self.optimizers: list[torch.optim.Optimizer] = []
        self.saved = self._restore()

    def train(self, index: int, stage: Stage) -> None:
        if stage.adapter and self.model.adapter is None:
            torch.manual_seed(self.recipe.seed)  # the same adapter, whenever the stage begins
            self.model.add_adapter(self.recipe.rank, self.recipe.scale)
        self.optimizers = self._optimizers(stage)
        batches = self._batches(index, stage)
        first = self.step if index == self.stage else 0
        self.stage = index
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns) as bar:
            task = bar.add_task(stage.name, total=stage.steps, completed=first, note="")
            for self.step in range(first, stage.steps):
                begin = time.perf_counter()
                result = self._update(next(batches), stage)
                self.tokens += result.tokens
                rate = result.tokens / (time.perf_counter() - begin)
                note = f"ar {result.ar:.3f} diffusion {result.diffusion:.3f} {rate:,.0f} tok/s"
                bar.update(task, completed=self.step + 1, note=note)
                self._log(stage, result, rate)
                if (self.step + 1) % self.args.save_every == 0:
                    self._save(index, self.step + 1)
        self.step = 0
        self.saved = self._save(index + 1, 0)

    def export(self) -> None:
        """Writes the checkpoint directory as it stands."""
        out = self.args.out / "checkpoint"
        save_weights(self.model, out)
        (out / "config.json").write_text(json.dumps(self.recipe.config(), indent=2) + "\n")
        (out / "tokenizer.json").write_text(self.tokenizer.json)
        (out / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}\n')
        (out / "chat_template.jinja").write_text(TEMPLATE.read_text())

    def _update(self, batch: Batch, stage: Stage) -> Losses:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = stage.rate(self.step)
        self.model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            if stage.adapter:
                result = draft_losses(self.model, batch)
            else:
                result = losses(self.forward, self.model, batch, stage.alpha)
        result.total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        return result

    def _batches(self, index: int, stage: Stage) -> Iterator[Batch]:
        """The stage's batches from the saved step on; earlier ones are drawn and dropped."""
        skip = self.step if index == self.stage else 0
        seed = self.recipe.seed * 1000 + index
        stream = data.mixture(self.tokenizer, self.args.pack, self.recipe.length, seed, self.recipe.episodes)
        for step in itertools.count():
            windows = list(itertools.islice(stream, stage.windows))
            if step >= skip:
                rng = random.Random(f"{seed}:{step}")
                yield make_batch(windows, stage.noise, tokenizer.MASK, rng, drafts=stage.adapter)

    def _optimizers(self, stage: Stage) -> list[torch.optim.Optimizer]:
        """Muon for the matrices of the layers, AdamW for embedding and norms; AdamW alone for the adapter."""
        self.model.requires_grad_(not stage.adapter)
        if stage.adapter:
            assert self.model.adapter is not None
            self.model.adapter.requires_grad_(True)
            made: list[torch.optim.Optimizer] = [torch.optim.AdamW(self.model.adapter.parameters(), betas=(0.9, 0.95))]
        else:
            named = list(self.model.encoder.named_parameters())
            matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
            others = [p for name, p in named if p.ndim != 2 or "embed" in name]
            made = [
                torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
                torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.01),
            ]
        if self.saved and self.saved["kind"] == stage.adapter:
            for optimizer, state in zip(made, self.saved["optimizers"], strict=True):
                optimizer.load_state_dict(state)
        return made

    def _tokenizer(self) -> Tokenizer:
        path = self.args.out / "tokenizer.json"
        if not path.exists():
            print("training the tokenizer")
            path.write_text(tokenizer.train(_sample(self.args.pack), self.recipe.vocab_size).to_str())
        return Tokenizer(path.read_text(), TEMPLATE.read_text())

    def _save(self, stage: int, step: int) -> dict[str, Any]:
        state = {
            "model": {k: v for k, v in self.model.state_dict().items() if not k.startswith("adapter.")},
            "adapter": self.model.adapter.state_dict() if self.model.adapter else None,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "kind": self.model.adapter is not None,
            "stage": stage,
            "step": step,
            "tokens": self.tokens,
        }
        temporary = self.args.out / "state.tmp"
        torch.save(state, temporary)
        temporary.replace(self.args.out / "state.pt")
        self.export()
        return state

    def _restore(self) -> dict[str, Any]:
        path = self.args.out / "state.pt"
        if not path.exists():
            return {}
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"], strict=False)
        if state["adapter"] is not None:
            self.model.add_adapter(self.recipe.rank, self.recipe.scale).load_state_dict(state["adapter"])
        self.stage, self.step, self.tokens = state["stage"], state["step"], state["tokens"]
        print(f"going on at stage {self.stage}, step {self.step}, {self.tokens:,} tokens")
        return dict(state)

    def _log(self, stage: Stage, result: Losses, rate: float) -> None:
        if (self.step + 1) % LOG_EVERY:
            return
        line = {
            "stage": stage.name, "step": self.step + 1, "ar": result.ar, "diffusion": result.diffusion,
            "tokens": self.tokens, "tokens_per_s": round(rate),
        }  # fmt: skip
        with (self.args.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def _initial(recipe: Recipe) -> Transformer:
    """Normal(0, 0.02) matrices; projections into the residual stream start smaller, by depth."""
    model = Transformer(ModelConfig.from_dict(recipe.config()))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            deep = name.endswith(("o_proj.weight", "down_proj.weight"))
            torch.nn.init.normal_(parameter, std=0.02 / (2 * recipe.layers) ** 0.5 if deep else 0.02)
    return model


def _sample(pack: Path) -> Iterator[str]:
    """Text for the tokenizer: message contents of a slice of each source."""
    for name in data.SOURCES:
        for episode in itertools.islice(read_episodes(pack / f"{name}.jsonl.gz"), 1500):
            for message in episode.messages:
                yield message["content"][:4000]


if __name__ == "__main__":
    main()
