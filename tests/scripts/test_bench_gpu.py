"""The GPU bench tried without a GPU: it runs from end to end, and what it derives adds up. Its times mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from trimode.engine.decoding.segment import Segment
from trimode.engine.forward.batch import Batch
from trimode.engine.forward.runner import Runner
from trimode.engine.kv_cache.pages import PagePool
from trimode.integrations.cli import app as cli
from trimode.kernels import ops

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "bench_gpu.py"
sys.path.insert(0, str(SCRIPT.parent))

import bench_gpu  # noqa: E402
from gpu_bench import passes, peers, shapes  # noqa: E402
from gpu_bench.timing import Bench, Card  # noqa: E402

SMALL = "--contexts 64 --batches 1 --block 2 --rows 1 --tokens 2 --rounds 1 --warm 0 --weights bf16 int8"
FOREIGN = ("pydantic", "jsonschema", "opentelemetry", "llguidance", "pytest", "hypothesis")
"""What a machine for the bench may lack; transformers brings some of our other packages."""
ALONE = f"""
import runpy, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        lacks = name.startswith(("trimode.policy", "trimode.integrations")) or name.partition(".")[0] in {FOREIGN}
        return None if lacks else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script where neither the layers above the engine nor their packages are to be had."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("bench") / "gpu.json"
    words = f"{SCRIPT} --device cpu --shape tiny {SMALL} --json {out}".split()
    subprocess.run([sys.executable, "-c", ALONE, *words], check=True, timeout=120, capture_output=True)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_every_part_is_measured(report: dict[str, Any]) -> None:
    assert {row["pass_"] for row in report["passes"]} == {"ar", "denoise", "draft", "verify", "quadratic"}
    assert {(row["weights"], row["graphs"]) for row in report["passes"]} == {
        ("bf16", False), ("bf16", True), ("int8", False), ("int8", True)
    }  # fmt: skip
    assert {row["peer"] for row in report["peers"]} == {"transformers generate", "torch.compile"}
    assert {"qkv whole", "head int8", "down fp8", "norm", "gate-up with SwiGLU", "attention, context 64"} <= {
        row["kernel"] for row in report["kernels"]
    }
    assert all(row["ms"] > 0 for row in (*report["passes"], *report["kernels"]))
    for row in (*report["passes"], *report["peers"], *report["kernels"]):
        floor = max(row["bytes"] / report["card"]["bytes_per_s"], row["flop"] / report["card"]["flop_per_s"])
        assert row["roofline_ms"] == pytest.approx(1e3 * floor)
        assert row["fraction_of_roofline"] == pytest.approx(1e3 * floor / row["ms"])


def test_a_trial_says_that_it_is_one(report: dict[str, Any]) -> None:
    assert report["device"].startswith("cpu: a trial")
    assert (report["clock"], report["compiled"]) == ("wall", False)
    assert set(report["versions"]) == {"torch", "triton", "transformers"}
    assert report["commit"]


def test_derived_figures_say_so_and_follow_from_passes(report: dict[str, Any]) -> None:
    assert all(row["derived"] is True and row["assumes"] for row in report["derived"])
    for way in (("int8", False), ("int8", True)):
        ms = {row["pass_"]: row["ms"] for row in report["passes"] if (row["weights"], row["graphs"]) == way}
        mine = [row for row in report["derived"] if (row["weights"], row["graphs"]) == way]
        found = {row["mode"]: row["tokens_per_s"] for row in mine}
        assert found["ar"] == pytest.approx(1e3 / ms["ar"])
        assert found["linear_spec"] == pytest.approx(6.82e3 / (ms["draft"] + ms["verify"]))
        assert found["quadratic_spec"] == pytest.approx(6e3 / ms["quadratic"])


def test_the_script_offers_every_shape() -> None:
    assert set(bench_gpu.SHAPES) == set(shapes.SHAPES)


def test_shapes_are_those_of_the_published_models() -> None:
    """Parameters without the embedding, of 3.83, 8.49 and 13.51 billion with it; norms are the rest."""
    billions = {"3b": 3.83, "8b": 8.49, "14b": 13.51}
    for name, expected in billions.items():
        config = shapes.SHAPES[name]
        embedding = config.vocab_size * config.hidden_size
        assert round((shapes.parameters(config) + embedding) / 1e9, 2) == expected


def test_bytes_and_products_are_those_of_the_rows() -> None:
    config = shapes.SHAPES["tiny"]
    model = shapes.model(config, torch.bfloat16, torch.device("cpu"))
    runner = Runner(model, *ops.kernels(torch.device("cpu"), torch.bfloat16, "torch"))
    assert runner.weight_bytes == 2 * shapes.parameters(config)
    case = passes.Case("quadratic", block=4, batch=2, context=10, points=3)
    assert (case.rows, case.reads) == (2 * (4 + 3 * 4), 2 * (4 + 3 * 3))
    entry = 2 * config.num_key_value_heads * config.head_dim * 2
    assert passes.moved(runner, case) == runner.weight_bytes + 2 * 10 * entry + case.reads * config.vocab_size * 2
    head = config.vocab_size * config.hidden_size
    assert passes.flop(config, case) == 2 * (case.rows * (shapes.parameters(config) - head) + case.reads * head)


def test_peers_are_the_same_model() -> None:
    """At fp32: transformers, the pass that is compiled on a GPU, and ours."""
    config, cpu, ids = shapes.SHAPES["tiny"], torch.device("cpu"), tuple(range(7, 17))
    model = shapes.model(config, torch.float32, cpu)
    pool = PagePool(config, 1 << 20, torch.float32, cpu)
    segment = Segment(start=0, trunk=ids, read=len(ids))
    runner = Runner(model, *ops.kernels(cpu, torch.float32, "torch"))
    ((ours, _),) = Batch([segment], [pool.take(1)]).forward(runner, pool)
    bench = Bench(cpu, torch.float32, rounds=1, warm=0)
    with torch.inference_mode():
        theirs = peers.hugging_face(model, bench)(torch.tensor([ids])).logits[0]
        plain = peers.compiled(model, bench, 0, torch.tensor(ids))()
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain, ours, rtol=1e-4, atol=1e-5)
    assert float(ours.std()) > 0


def test_contenders_take_turns() -> None:
    order: list[str] = []

    def noting(name: str) -> Callable[[], object]:
        return lambda: order.append(name)

    bench = Bench(torch.device("cpu"), torch.float32, rounds=2, warm=1)
    found = bench.medians({"a": noting("a"), "b": noting("b")})
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert set(found) == {"a", "b"}


def test_the_floor_is_the_larger_of_moving_and_multiplying() -> None:
    card = Card(bytes_per_s=10.0, flop_per_s=100.0)
    assert (card.floor(20, 100), card.floor(20, 1000)) == (2.0, 10.0)


def test_without_a_gpu_it_refuses() -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=120, env=hidden)
    assert done.returncode == 1
    assert "torch sees no CUDA device; --device cpu --shape tiny tries the bench" in done.stderr


def test_the_command_line_calls_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    def call(words: list[str]) -> int:
        called.append(words)
        return 3

    monkeypatch.setattr(subprocess, "call", call)
    done = CliRunner().invoke(cli.app, ["bench", "gpu", "--shape", "tiny", "--device", "cpu"])
    assert done.exit_code == 3
    assert called == [[sys.executable, str(SCRIPT), "--shape", "tiny", "--device", "cpu"]]


def test_what_is_measured_is_kept_when_a_later_part_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: object) -> Iterator[tuple[str, Any]]:
        yield "card", {"bytes_per_s": 1.0}
        raise RuntimeError("out of memory, say")

    out = tmp_path / "gpu.json"
    monkeypatch.setattr(bench_gpu, "bench", failing)
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", *["--device", "cpu", "--shape", "tiny", "--json"], str(out)])
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="out of memory"):
        bench_gpu.main()
    assert json.loads(out.read_text()) == {"card": {"bytes_per_s": 1.0}}


def test_it_says_what_it_takes() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert "--device cpu --shape tiny" in done.stdout
    assert all(f"--{name}" in done.stdout for name in ("weights", "contexts", "batches", "rounds", "no-peers", "json"))


def test_all_ways_of_a_case_share_its_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 8,192 positions and batch 8 those of the 14B model are 11 GB, which six ways would take six times."""
    made: list[PagePool] = []

    def pages(*arguments: Any) -> PagePool:
        made.append(PagePool(*arguments))
        return made[-1]

    monkeypatch.setattr(passes, "PagePool", pages)
    monkeypatch.setattr(passes, "work", lambda *_: lambda: None)
    model = shapes.model(shapes.SHAPES["tiny"], torch.float32, torch.device("cpu"))
    runner = Runner(model, *ops.kernels(torch.device("cpu"), torch.float32, "torch"))
    asked = passes.cases([64], [2], 2, [])
    bench, card = Bench(torch.device("cpu"), torch.float32, rounds=1, warm=0), Card(1.0, 1.0)
    rows = list(passes.measure({"bf16": runner, "int8": runner}, asked, bench, card))
    assert len(rows) == 4 * len(asked)
    assert len(made) == len(asked)
