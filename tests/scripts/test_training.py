"""Training sees what decoding does, and a killed run goes on to the same weights."""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import train  # noqa: E402
from training.data import SOURCES, Window  # noqa: E402
from training.objective import Batch, Losses, attention, block_starts, make_batch  # noqa: E402
from training.recipe import Noise, Recipe, Stage  # noqa: E402

from trimode.engine.decoding.segment import Branch, Segment  # noqa: E402
from trimode.engine.forward.batch import Batch as Pass  # noqa: E402
from trimode.engine.forward.runner import Runner  # noqa: E402
from trimode.engine.kv_cache.pages import PagePool  # noqa: E402
from trimode.engine.models.config import ModelConfig  # noqa: E402
from trimode.engine.models.model import Transformer  # noqa: E402
from trimode.kernels import ops  # noqa: E402

SMALL = Recipe(
    vocab_size=300, hidden_size=32, intermediate_size=48, layers=2, heads=2, kv_heads=1, length=96, block=8, rank=2
)
MIXED = Noise(regions=3, block=8, widths=(8, 4), known=(1, 0, 2), ends=True)
STAGES = [
    Stage(name="ar", steps=3, windows=2),
    Stage(name="joint", steps=4, windows=2, noise=MIXED, alpha=1.0, decay=0.5),
    Stage(name="adapter", steps=2, windows=2, noise=MIXED, adapter=True),
]


def test_a_noisy_block_sees_what_a_draft_pass_sees() -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig.from_dict(SMALL.config())).eval()
    ids = np.arange(10, 58, dtype=np.int16)
    own = np.zeros(48, dtype=np.bool_)
    own[20:40] = True
    batch = make_batch([Window(ids, own)], Noise(regions=2, block=8, widths=(8,)), 5, random.Random(1), drafts=True)
    with torch.inference_mode():
        hidden = model(batch.tokens.flatten(), batch.positions.flatten(), attention(batch, 2))
        for block in range(2):
            rows = slice(48 + block * SMALL.block, 48 + (block + 1) * SMALL.block)
            start = int(batch.start[0, block * SMALL.block])
            tokens = tuple(batch.tokens[0, rows].tolist())
            found = model.head(hidden[rows])
            torch.testing.assert_close(found, drafted(model, ids.tolist(), start, tokens), atol=1e-5, rtol=0)


def drafted(model: Transformer, ids: list[int], start: int, tokens: tuple[int, ...]) -> torch.Tensor:
    """Logits of `tokens` as a block after `start` causal tokens, on the engine's path."""
    pool = PagePool(model.config, 1 << 20, torch.float32, torch.device("cpu"))
    table = pool.take(4)
    runner = Runner(model, *ops.kernels(torch.device("cpu"), torch.float32, "torch"))
    Pass([Segment(start=0, trunk=tuple(ids[:start]))], [table]).forward(runner, pool)
    branch = Branch(tokens=tokens, read=len(tokens))
    return Pass([Segment(start=start, branches=(branch,))], [table]).forward(runner, pool)[0][0]


def test_a_draft_block_keeps_its_seed_and_hides_the_rest() -> None:
    own = np.zeros(64, dtype=np.bool_)
    own[10:30] = True
    batch = make_batch(
        [Window(np.arange(64, dtype=np.int16) + 6, own)],
        Noise(regions=2, block=8, widths=(8,)),
        5,
        random.Random(0),
        drafts=True,
    )
    for block in range(2):
        row = 64 + block * 8
        start = int(batch.start[0, block * 8])
        assert batch.tokens[0, row] == start + 6
        assert batch.tokens[0, row + 1 : row + 8].eq(5).all()
        run = min(8, 30 - start)
        assert batch.weight[0, row : row + 8].tolist() == [0.0] + [1.0] * (run - 1) + [0.0] * (8 - run)


def test_blocks_start_on_own_tokens_only() -> None:
    own = np.zeros(100, dtype=np.bool_)
    own[[*range(5, 25), *range(50, 52), 70]] = True
    starts = block_starts(own, 8, random.Random(0))
    assert {at for at, _ in starts} >= {5, 50}
    assert all(own[at] and own[at + 1] and at < end for at, end in starts)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A training pack of our own sentences, one shard a source."""
    folder = tmp_path / "pack"
    folder.mkdir()
    for source in SOURCES:
        steps = [{"kind": "user", "text": f"please look at {source}"}, {"kind": "prose", "text": "looking " * 12}]
        records = [{"id": f"{source}-{n}", "source": source, "tools": [], "steps": steps * (n + 2)} for n in range(3)]
        with gzip.open(folder / f"{source}.jsonl.gz", "wt") as file:
            file.write("".join(json.dumps(record) + "\n" for record in records))
    return folder


class Killed(Exception):
    pass


def run_all(pack: Path, out: Path, kill_at: tuple[int, int] | None = None) -> dict[str, torch.Tensor]:
    """All stages; with `kill_at` (stage, step) the run dies before that update."""
    out.mkdir(exist_ok=True)
    run = train.Run(argparse.Namespace(pack=pack, out=out, compile=False, save_every=2), SMALL)
    update = run._update  # pyright: ignore[reportPrivateUsage]

    def mortal(batch: Batch, stage: Stage) -> Losses:
        if kill_at == (run.stage, run.step):
            raise Killed
        return update(batch, stage)

    run._update = mortal  # type: ignore[method-assign]  # pyright: ignore[reportPrivateUsage]
    for index, stage in enumerate(STAGES):
        if index >= run.stage:
            run.train(index, stage)
    return dict(run.model.state_dict())


@pytest.mark.parametrize("kill_at", [(0, 2), (1, 0), (1, 3), (2, 1)])
def test_a_killed_run_goes_on_to_the_same_weights(pack: Path, tmp_path: Path, kill_at: tuple[int, int]) -> None:
    torch.manual_seed(0)
    whole = run_all(pack, tmp_path / "whole")
    (tmp_path / "cut").mkdir()
    torch.manual_seed(0)
    with pytest.raises(Killed):
        run_all(pack, tmp_path / "cut", kill_at)
    torch.manual_seed(1)  # what a new process starts with must not matter
    resumed = run_all(pack, tmp_path / "cut")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
