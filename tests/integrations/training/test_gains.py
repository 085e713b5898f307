"""The whole way on a small base: it answers, an adapter learns, the engine accepts more and says the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from taught_base import RING, write_chats, write_taught_base
from typer.testing import CliRunner

from trimode.engine.errors import CheckpointError
from trimode.engine.models.checkpoint import locate
from trimode.integrations.cli import app as cli
from trimode.integrations.training.errors import TrainingError
from trimode.policy.calls import Engine

SIZES = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
STEPS = 150
BAR = 2.5
"""Accepted tokens a draft of seven; the untrained adapter has fewer than one."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_taught_base(tmp_path_factory.mktemp("taught") / "base", 250, SIZES)


@pytest.fixture(scope="module")
def out(base: Path) -> Path:
    path = base.parent / "out"
    chats = write_chats(base.parent / "chats.jsonl", 24)
    given = [
        "train", "adapter", "--base", str(base), "--data", str(chats), "--out", str(path), "--sample-from-base",
        "--answer-tokens", "40", "--steps", str(STEPS), "--samples", "4", "--drafts", "12", "--rank", "8",
        "--rate", "1e-2", "--dtype", "float32", "--held-out", "4", "--measure-every", "50", "--device", "cpu",
    ]  # fmt: skip
    result = CliRunner().invoke(cli.app, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return path


def accepted(engine: Engine) -> float:
    """Accepted tokens a draft of `linear_spec` on texts that were not trained on; the tokens are those of `ar`."""
    drafts = found = 0
    for at in range(2, 44, 7):
        messages = [{"role": "user", "content": (RING * 2)[at : at + 12]}]
        ar, spec = (
            engine.generate(messages=messages, mode=mode, max_tokens=40, temperature=0.0)
            for mode in ("ar", "linear_spec")
        )
        assert spec.token_ids == ar.token_ids
        drafts += spec.stats.forward_passes // 2
        found += spec.stats.accepted
    return found / drafts


def test_acceptance_grows(base: Path, out: Path) -> None:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0]["accepted"] < 1
    assert lines[-1]["held_out"] > BAR
    engine = Engine.load(base, adapter=out)
    assert engine.tokens.model.config.modes == ("ar", "linear_spec", "quadratic_spec", "lookup_spec")
    assert accepted(engine) > BAR


def test_files_of_a_run(base: Path, out: Path) -> None:
    card = (out / "README.md").read_text(encoding="utf-8")
    assert locate(base).weights_sha256 in card
    assert f"{STEPS} of {STEPS}" in card
    assert (out / "loss.png").is_file()
    drafting = json.loads((out / "trimode_adapter.json").read_text(encoding="utf-8"))
    assert drafting["block_lengths"] == [4, 8]
    assert drafting["exact_first"] is True


def test_another_base_is_refused(out: Path, tmp_path: Path) -> None:
    other = write_taught_base(tmp_path / "other", 1, SIZES)
    with pytest.raises(CheckpointError, match="the adapter was made for base, whose weights have the digest"):
        Engine.load(other, adapter=out)
    with pytest.raises(TrainingError, match="is of another run: base_sha256 was"):
        again(other, out)


def test_other_options_are_refused(base: Path, out: Path) -> None:
    with pytest.raises(TrainingError, match="rank was 8 and is 32"):
        again(base, out, "--rank", "32")


def again(base: Path, out: Path, *more: str) -> None:
    given = [
        "train", "adapter", "--base", str(base), "--data", str(out / "own.jsonl"), "--out", str(out), "--steps",
        str(STEPS), "--samples", "4", "--drafts", "12", "--rank", "8", "--rate", "1e-2", "--dtype", "float32",
        "--held-out", "4", "--device", "cpu", *more,
    ]  # fmt: skip
    CliRunner().invoke(cli.app, given, catch_exceptions=False)
