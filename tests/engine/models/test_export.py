"""Exported checkpoints: what transformers loads from the directory has our logits and writes our greedy ids."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimode.engine.errors import CheckpointError, RequestError
from trimode.engine.models.config import ModelConfig
from trimode.engine.models.export import export
from trimode.engine.models.model import Transformer
from trimode.engine.models.rope_config import RopeConfig
from trimode.engine.models.weights import load_model, save_weights
from trimode.engine.request import DecodeRequest
from trimode.engine.token_engine import TokenEngine
from trimode.policy.calls.engine import Engine

YARN = RopeConfig(
    theta=1e5,
    kind="yarn",
    factor=4.0,
    original_max_position_embeddings=32,
    mscale=1.0,
    mscale_all_dim=1.0,
    llama_4_scaling_beta=0.3,
)
CONFIGS = {
    "default rope": small.CONFIG,
    "yarn with query scale": replace(small.CONFIG, rope=YARN),
    "yarn without, tied": replace(
        small.CONFIG, rope=replace(YARN, llama_4_scaling_beta=None), tie_word_embeddings=True
    ),
}


def write(model: Transformer, directory: Path, tokenizer: Path, **more: Any) -> Path:
    """A checkpoint in the NLD format, fp32, with the reference tokenizer."""
    config, rope = model.config, model.config.rope
    parameters = {name: getattr(rope, name) for name in RopeConfig.__slots__ if name not in ("theta", "kind")}
    fields = {
        **{name: getattr(config, name) for name in ModelConfig.__slots__ if name not in ("rope", "eos_token_ids")},
        "architectures": ["NemotronLabsDiffusionModel"],
        "eos_token_id": list(config.eos_token_ids),
        "rope_parameters": {"rope_theta": rope.theta, "rope_type": rope.kind, **parameters},
        **more,
    }
    save_weights(model, directory, torch.float32)
    (directory / "config.json").write_text(json.dumps(fields))
    (directory / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return directory


def theirs(directory: Path) -> Any:
    auto: Any = AutoModelForCausalLM
    return auto.from_pretrained(directory, dtype=torch.float32).eval()


def their_logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0]
    return found


def our_logits(model: Transformer, ids: list[int]) -> torch.Tensor:
    """[T, V] of a whole causal pass with attention written out, so that no cache is involved."""
    size = len(ids)
    hidden = torch.ones(size, size, dtype=torch.bool).triu(1)

    def attend(_: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        group = q.shape[1] // k.shape[1]
        keys, values = (part.repeat_interleave(group, 1).transpose(0, 1) for part in (k, v))
        scores = (q.transpose(0, 1) @ keys.transpose(1, 2) * q.shape[-1] ** -0.5).masked_fill(hidden, -torch.inf)
        mixed: torch.Tensor = scores.softmax(-1) @ values
        return mixed.transpose(0, 1)

    with torch.no_grad():
        logits: torch.Tensor = model.head(model(torch.tensor(ids), torch.arange(size), attend))
    return logits


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_of_random_models_are_equal(name: str, folder: Path, tmp_path: Path) -> None:
    model = small.model(3, CONFIGS[name], rank=2)
    source = write(model, tmp_path / "nld", folder / "tokenizer.json")
    missing = export(source, tmp_path / "out")
    ids = list(small.prompt(1, 80))
    found, expected = their_logits(theirs(tmp_path / "out"), ids), our_logits(model, ids)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert [sentence.split()[0] for sentence in missing] == ["draft", "mask", "block"]
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["bos_token_id"], written["pad_token_id"]) == (None, None), "not those of Mistral's vocabulary"


def test_shards_stay_shards(folder: Path, tmp_path: Path) -> None:
    model = small.model(4)
    source = write(model, tmp_path / "nld", folder / "tokenizer.json")
    whole = load_file(source / "model.safetensors")
    names = sorted(whole)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, names in parts.items():
        save_file({name: whole[name] for name in names}, source / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    (source / "model.safetensors").unlink()
    export(source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors")) == sorted(parts)
    ids = list(small.prompt(2, 20))
    torch.testing.assert_close(their_logits(theirs(tmp_path / "out"), ids), our_logits(model, ids), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "reference"
    export(folder, out)
    return out


MESSAGES = [
    {"role": "system", "content": "You help people on the phone."},
    {"role": "user", "content": "I want to book a table for two at seven."},
]
TEXTS = ["How many loaves does a baker sell in 3 days?", "Book a table.", '{"name":', "x"]


def test_reference_logits_are_equal(exported: Path, reference: Engine) -> None:
    model = load_model(reference.checkpoint.directory, torch.float32, torch.device("cpu"))
    ids = reference.tokenizer.encode_chat(MESSAGES, add_generation_prompt=True, kind="prose")
    torch.testing.assert_close(their_logits(theirs(exported), ids), our_logits(model, ids), rtol=0, atol=1e-4)


def test_greedy_ids_of_the_reference_are_equal(exported: Path, reference: Engine) -> None:
    model = theirs(exported)
    tokens: TokenEngine = reference.tokens
    prompts = [
        reference.tokenizer.encode_chat([{"role": "user", "content": text}], add_generation_prompt=True, kind=kind)
        for text, kind in zip(TEXTS, ("plan", "prose", "json", "tool_call"), strict=True)
    ]
    for prompt in prompts:
        with torch.inference_mode():
            found = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=24, pad_token_id=0)
        expected = tokens.decode(DecodeRequest(prompt=tuple(prompt), max_tokens=24)).token_ids
        assert tuple(found[0, len(prompt) :].tolist()) == expected


def test_tokenizer_and_template_are_the_sources(exported: Path, reference: Engine) -> None:
    auto: Any = AutoTokenizer
    tokenizer = auto.from_pretrained(exported)
    config = reference.tokens.model.config
    assert tokenizer.eos_token_id == config.eos_token_ids[0]
    assert tokenizer.bos_token_id == json.loads((exported / "config.json").read_text())["bos_token_id"]
    for text in TEXTS:
        assert tokenizer(text, add_special_tokens=False).input_ids == reference.tokenizer.encode(text)
    found = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, kind="plan", return_dict=False)
    assert found == reference.tokenizer.encode_chat(MESSAGES, add_generation_prompt=True, kind="plan")


def test_generation_stops_at_the_end_token(exported: Path) -> None:
    assert theirs(exported).generation_config.eos_token_id == [4]


def test_errors_say_what_was_expected(folder: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("")
    with pytest.raises(RequestError, match="new or empty"):
        export(folder, full)
    with pytest.raises(RequestError, match="'onnx': expected one of ministral3, gguf"):
        export(folder, tmp_path / "out", "onnx")
    with pytest.raises(CheckpointError, match="no checkpoint directory"):
        export(tmp_path / "nowhere", tmp_path / "out")
    bare = write(small.model(5), tmp_path / "bare", folder / "tokenizer.json")
    (bare / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        export(bare, tmp_path / "out")
    other = write(small.model(5), tmp_path / "other", folder / "tokenizer.json")
    save_file({"visual.weight": torch.zeros(1)}, other / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"found 'visual\.weight'"):
        export(other, tmp_path / "new")
    assert not (tmp_path / "out").exists()


def test_what_the_config_says_to_us_is_carried(tmp_path: Path, reference: Engine) -> None:
    export(reference.checkpoint.directory, tmp_path / "out")
    assert ModelConfig.load(tmp_path / "out").selection == "text_first"
