"""Matrices left in a checkpoint's files: the tokens of whole weights, and a file of packed ones that loads share."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf_files
import pytest
import small
import torch
from torch import Tensor

from trimode.engine.errors import CheckpointError, WeightsReleased
from trimode.engine.forward import matrices
from trimode.engine.models.checkpoint import Checkpoint, locate
from trimode.engine.options import ArOptions, LinearSpecOptions
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.token_engine import TokenEngine
from trimode.kernels.layout import NO_ADAPTER
from trimode.kernels.native.pack_file import MAGIC

CPU = torch.device("cpu")
REQUEST = DecodeRequest(prompt=(50, 60, 70), options=ArOptions(), sampling=Sampling(temperature=0.0), max_tokens=24)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder in which files of any size are kept."""
    monkeypatch.setenv("TRIMODE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(matrices, "WORTH_KEEPING", 0)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three forms in one product, and forms of their own for the others."""
    kinds = {"attn_q": "Q4_1", "attn_k": "Q8_0", "attn_v": "Q4_0", "attn_output": "Q4_0", "ffn": "Q4_1", "embd": "Q8_0"}
    return gguf_files.written(tmp_path_factory.mktemp("gguf") / "mixed.gguf", kind=kinds)


def engine(path: Path, **options: Any) -> TokenEngine:
    """As `Engine.load` does it with native kernels."""
    model, tokenizer = Checkpoint(path, "test").load(torch.float32, CPU, in_files=True)
    return TokenEngine(model, tokenizer.decode, tokenizer.vocab_size, kv_bytes=1 << 22, **options)


def tokens(made: TokenEngine, seed: int = 0) -> tuple[int, ...]:
    sampling = Sampling(temperature=float(seed % 2), seed=seed)
    request = DecodeRequest(prompt=small.prompt(seed, 5), options=ArOptions(), sampling=sampling, max_tokens=20)
    return tuple(made.decode(request).token_ids)


def logits(made: TokenEngine) -> Tensor:
    """Of one row over each token, by the kernels alone."""
    runner = made.runner
    return runner.kernels.linear(runner.embed(torch.arange(20)), runner.stack.head)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "BF16", "F16", "F32", "mixed"])
def test_tokens_and_logits_are_those_of_whole_weights_to_the_last_bit(kind: str, mixed: Path, tmp_path: Path) -> None:
    path = mixed if kind == "mixed" else gguf_files.written(tmp_path / "model.gguf", kind=kind)
    kept, whole = engine(path), engine(path, quantize="no")
    model, tokenizer = Checkpoint(path, "test").load(torch.float32, CPU)
    in_memory = TokenEngine(model, tokenizer.decode, tokenizer.vocab_size, kv_bytes=1 << 22)
    forms = {"mixed": ["Q4_0", "Q4_1"]}.get(kind, [kind] if kind.startswith("Q") else [])
    assert (kept.runner.forms, whole.runner.forms) == (forms, [])
    assert torch.equal(logits(kept), logits(whole))
    for seed in range(4):
        assert tokens(kept, seed) == tokens(whole, seed) == tokens(in_memory, seed)
    for made in (kept, whole, in_memory):
        made.close()


def adapter_bytes(engine: TokenEngine) -> int:
    """Bytes of the draft adapter, which is in no file of packed matrices: of its modules, and packed."""
    packed = [matrix for block in engine.runner.stack.blocks for matrix in (block.adapter or NO_ADAPTER).matrices]
    modules = [weight for name, weight in engine.model.named_parameters() if "lora" in name]
    assert packed
    assert modules
    return sum(one.nbytes for one in (*packed, *modules))


@pytest.mark.parametrize("options", [{}, {"quantize": "int8"}, {"quantize": "int4", "quantize_head": True}], ids=str)
def test_loads_share_a_file_that_the_first_one_writes(cache: Path, options: dict[str, Any]) -> None:
    """The bundled weights, with their adapter, whose embedding is the head."""
    path, read = locate(None).directory, list[str]()
    first = engine(path, **options)
    (file,) = cache.glob("packed-*")
    model, tokenizer = locate(None).load(torch.float32, CPU, in_files=True)
    assert model.stored is not None

    def noted(name: str) -> Tensor:
        read.append(name)
        return torch.empty(0)

    model.stored = replace(model.stored, read=noted)
    second = TokenEngine(model, tokenizer.decode, tokenizer.vocab_size, kv_bytes=1 << 22, **options)
    assert not read, "nothing is read but the packed file"
    asked = replace(REQUEST, options=LinearSpecOptions(block_length=6))
    assert first.decode(REQUEST).token_ids == second.decode(REQUEST).token_ids == second.decode(asked).token_ids
    assert first.memory.weights == second.memory.weights
    size = file.stat().st_size
    matrices = second.memory.weights - adapter_bytes(second)
    assert size <= matrices < 1.25 * size, "the file is the only copy of the matrices"
    file.unlink()  # what is mapped stays
    file.write_bytes(bytes(size))
    third = engine(path, **options)
    assert third.decode(REQUEST).token_ids == first.decode(REQUEST).token_ids
    assert file.read_bytes()[-8:] == MAGIC, "a damaged file is replaced"
    for made in (first, second, third):
        made.close()


def test_other_sources_roundings_and_kernels_have_other_files(cache: Path, mixed: Path) -> None:
    engine(mixed).close()
    for count, change in enumerate(({"quantize": "no"}, {"quantize": "int8"}, {"quantize": "int4"}), 2):
        engine(mixed, **change).close()
        assert len(list(cache.glob("packed-*"))) == count
    found = set(cache.glob("packed-*"))
    for _ in range(3):
        os.utime(mixed)
        engine(mixed).close()
        kept = set(cache.glob("packed-*"))
        assert len(kept) == 5, "of a source that is replaced again and again, the new form and the one before"
        assert len(kept & found) >= 3, "and those of other roundings"
        found = kept


@pytest.mark.parametrize("why", ["No space left on device", "File exists"])
def test_a_folder_that_takes_no_file_is_done_without_and_said(
    cache: Path, mixed: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if why.startswith("No space"):
        monkeypatch.setattr(matrices, "write_pack_file", full)
    else:
        cache.write_text("no folder")
    made = engine(mixed)
    assert made.runner.why == f"the fastest here; packed weights not kept in {cache}: {why}"
    assert tokens(made) == tokens(engine(mixed, quantize="no"))
    made.close()


def test_small_checkpoints_are_packed_anew(tmp_path: Path, mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMODE_CACHE", str(tmp_path / "cache"))
    made = engine(mixed)
    assert made.runner.why == "the fastest here"
    assert not (tmp_path / "cache").exists()
    made.close()


def test_what_needs_whole_weights_says_why_it_cannot_be(mixed: Path) -> None:
    made = engine(mixed)
    with pytest.raises(WeightsReleased, match="which this engine has the packed form alone"):
        made.model(torch.tensor([1]), torch.tensor([0]), lambda *_: torch.empty(0))
    again = TokenEngine(made.model, made.text, locate(mixed).tokenizer().vocab_size, kv_bytes=1 << 22)
    assert tokens(again) == tokens(made), "an engine can be made of the same files again"
    made.close()
    again.close()


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    model = gguf_files.oracle()
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = float("inf")
    path = gguf_files.written(tmp_path / "model.gguf", model)
    with pytest.raises(CheckpointError, match=r"found NaN or infinity in blk\.1\.ffn_down\.weight"):
        engine(path)
