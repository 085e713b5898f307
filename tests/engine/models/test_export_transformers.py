"""`export --format transformers`: a GGUF file as a directory that transformers loads as the model it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf_files
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimode.engine.errors import CheckpointError, RequestError
from trimode.engine.models.checkpoint import Checkpoint
from trimode.engine.models.export import export
from trimode.engine.models.tokenizer import Tokenizer
from trimode.engine.models.weights import load_model

CPU = torch.device("cpu")
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True, "rope_parameters": YARN, "head_dim": 22}),
    ("qwen3", {"head_dim": 32}),
    ("mistral3", {"rope_parameters": {**YARN, "llama_4_scaling_beta": 0.25, "mscale": 1.0, "mscale_all_dim": 1.0}}),
    ("mistral3", {}),
]


@pytest.mark.parametrize(("arch", "changes"), CASES, ids=str)
def test_transformers_loads_the_model_that_was_written(tmp_path: Path, arch: str, changes: dict[str, Any]) -> None:
    made = gguf_files.oracle(arch, seed=2, **changes)
    path = gguf_files.written(tmp_path / "model.gguf", made, arch)
    assert export(path, tmp_path / "out", "transformers") == []
    auto: Any = AutoModelForCausalLM
    theirs = auto.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    ids = torch.arange(40)[None] % 290
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, made(ids).logits, rtol=0, atol=1e-5)
    ours, model = load_model(tmp_path / "out", torch.float32, CPU), Checkpoint(path, "test").load(torch.float32, CPU)[0]
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in ours.state_dict().items())
    assert ours.config.eos_token_ids == model.config.eos_token_ids


def test_tokenizer_template_and_dtype(tmp_path: Path) -> None:
    path = gguf_files.written(tmp_path / "model.gguf", kind="Q8_0")
    export(path, tmp_path / "out", "transformers", "bf16")
    tokenizer, before = Tokenizer.load(tmp_path / "out"), Checkpoint(path, "test").tokenizer()
    assert (tokenizer.json, tokenizer.special) == (before.json, before.special)
    messages = [{"role": "user", "content": "ab 12"}]
    auto: Any = AutoTokenizer
    found = auto.from_pretrained(tmp_path / "out").apply_chat_template(messages, return_dict=False)
    assert found == before.encode_chat(messages)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}  # fmt: skip
    path = gguf_files.written(tmp_path / "model.gguf", gguf_files.oracle(rope_parameters=rope))
    with pytest.raises(CheckpointError, match="no place for factors of single rope frequencies"):
        export(path, tmp_path / "out", "transformers")
    with pytest.raises(RequestError, match="type 'q8_0': expected one of f32, f16, bf16"):
        export(path, tmp_path / "out", "transformers", "q8_0")
    with pytest.raises(CheckpointError, match=r"expected a GGUF file, found .*; transformers reads a directory"):
        export(tmp_path, tmp_path / "out", "transformers")


def test_a_linear_scaling_is_one_factor(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}
    export(gguf_files.written(tmp_path / "model.gguf", **keys), tmp_path / "out", "transformers")
    rope = json.loads((tmp_path / "out" / "config.json").read_text())["rope_parameters"]
    assert (rope["rope_type"], rope["factor"]) == ("linear", 4.0)
