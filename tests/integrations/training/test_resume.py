"""Killed at any time and started again, or shared out among processes, a run comes to the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft_adapters import write_base
from safetensors.torch import load_file
from taught_base import write_chats
from typer.testing import CliRunner

from trimode.integrations.cli import app as cli

STEPS = 30


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    write_base(path / "base")
    write_chats(path / "chats.jsonl", 12)
    return path


def command(files: Path, out: Path, *more: str) -> list[str]:
    return [
        "train", "adapter", "--base", str(files / "base"), "--data", str(files / "chats.jsonl"), "--out", str(out),
        "--steps", str(STEPS), "--samples", "4", "--drafts", "6", "--rank", "2", "--dtype", "float32", "--held-out",
        "2", "--measure-every", "10", "--device", "cpu", *more,
    ]  # fmt: skip


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def whole(files: Path) -> Path:
    result = CliRunner().invoke(cli.app, command(files, files / "whole"), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return files / "whole"


def test_killed_and_resumed(files: Path, whole: Path) -> None:
    """SIGKILL in the middle, with a saving after each step; the rest in this process."""
    out = files / "killed"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    asked = [sys.executable, "-m", "trimode", *command(files, out, "--save-every", "0")]
    process = subprocess.Popen(asked, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while process.poll() is None and len(lines(out)) < 3:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    before = lines(out)
    result = CliRunner().invoke(cli.app, command(files, out), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    same(weights(out), weights(whole))
    assert [line["step"] for line in lines(out)] == list(range(1, STEPS + 1))
    assert [line["loss"] for line in before] == [line["loss"] for line in lines(whole)][: len(before)]


def test_passes_are_shared_out(files: Path, whole: Path) -> None:
    """Two processes sum the gradients of one; only the order of sums is another."""
    out = files / "two"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    asked = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trimode",
        *command(files, out),
    ]  # fmt: skip
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for name, one in weights(whole).items():
        torch.testing.assert_close(weights(out)[name].float(), one.float(), rtol=0.05, atol=2e-3)
    losses = [[line["loss"] for line in lines(path)] for path in (whole, out)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def lines(out: Path) -> list[dict[str, float]]:
    file = out / "log.jsonl"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_start_from_begins_with_those_weights(files: Path, whole: Path) -> None:
    out = files / "further"
    given = command(files, out, "--start-from", str(whole), "--rate", "1e-12", "--steps", "2")
    result = CliRunner().invoke(cli.app, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    same(weights(out), weights(whole))
