"""Checkpoint directories: what is written is what is read, and everything else is refused by name.

Only `CheckpointError` may leave `load_model`, whatever the directory contains.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimode.engine.errors import CheckpointError
from trimode.engine.models.adapter_weights import save_adapter
from trimode.engine.models.config import ModelConfig
from trimode.engine.models.model import Transformer
from trimode.engine.models.weight_files import sha256, weight_files
from trimode.engine.models.weights import load_model, save_weights
from trimode.engine.options import LinearSpecOptions
from trimode.engine.request import DecodeRequest

CPU = torch.device("cpu")


def config_json(config: ModelConfig) -> dict[str, Any]:
    names = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "mask_token_id",
        "tie_word_embeddings",
    )  # fmt: skip
    fields: dict[str, Any] = {name: getattr(config, name) for name in names}
    return fields | {
        "architectures": ["NemotronLabsDiffusionModel"],
        "eos_token_id": list(config.eos_token_ids),
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope.theta},
    }


def write(model: Transformer, directory: Path, dtype: torch.dtype = torch.float32) -> Path:
    save_weights(model, directory, dtype)
    (directory / "config.json").write_text(json.dumps(config_json(model.config)), encoding="utf-8")
    return directory


def load(directory: Path, dtype: torch.dtype = torch.float32) -> Transformer:
    return load_model(directory, dtype, CPU)


def same(one: Transformer, other: Transformer) -> None:
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


TIED = replace(small.CONFIG, tie_word_embeddings=True)


@pytest.mark.parametrize("config", [small.CONFIG, TIED], ids=["untied", "tied"])
@pytest.mark.parametrize("rank", [0, 3])
def test_a_saved_model_is_read_back_bit_for_bit(tmp_path: Path, config: ModelConfig, rank: int) -> None:
    model = small.model(1, config, rank=rank)
    again = load(write(model, tmp_path))
    assert again.config == config
    same(model, again)
    assert not again.training
    assert not any(weight.requires_grad for weight in again.parameters())
    assert (again.adapter is None) == (rank == 0)
    request = DecodeRequest(prompt=(1, 2, 3), options=LinearSpecOptions(block_length=6), max_tokens=12)
    assert small.engine(again).decode(request).rounds == small.engine(model).decode(request).rounds


def test_the_files_have_the_formats_names_and_dtypes(tmp_path: Path) -> None:
    write(small.model(1, rank=3), tmp_path, torch.bfloat16)
    body = load_file(tmp_path / "model.safetensors")
    assert len(body) == 9 * small.CONFIG.num_hidden_layers + 3
    assert "encoder.layers.1.self_attn.o_proj.weight" in body
    assert {tensor.dtype for tensor in body.values()} == {torch.bfloat16}
    adapter = load_file(tmp_path / "linear_spec_lora" / "adapter_model.safetensors")
    assert "base_model.model.encoder.layers.0.self_attn.o_proj.lora_A.weight" in adapter
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    fields = json.loads((tmp_path / "linear_spec_lora" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (fields["r"], fields["lora_alpha"], fields["target_modules"]) == (3, 12.0, ["o_proj"])


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    again = load(write(small.model(1, TIED), tmp_path))
    assert "diffusion_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert again.diffusion_head.weight is again.encoder.embed_tokens.weight


def test_weights_are_read_in_the_asked_dtype(tmp_path: Path) -> None:
    model = small.model(1, rank=2)
    again = load(write(model, tmp_path, torch.bfloat16), torch.float32)
    weight = again.encoder.norm.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, model.encoder.norm.weight.bfloat16().float())
    assert {tensor.dtype for tensor in load(tmp_path, torch.bfloat16).state_dict().values()} == {torch.bfloat16}


def shard(directory: Path) -> None:
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    where: dict[str, str] = {}
    for part in range(3):
        name = f"model-0000{part + 1}-of-00003.safetensors"
        chosen = dict(sorted(state.items())[part::3])
        save_file(chosen, directory / name)
        where |= dict.fromkeys(chosen, name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}), encoding="utf-8")


def test_shards_are_read_like_one_file(tmp_path: Path) -> None:
    model = small.model(2)
    shard(write(model, tmp_path))
    assert len(weight_files(tmp_path)) == 3
    same(model, load(tmp_path))


def test_scales_of_quantised_caches_are_passed_over(tmp_path: Path) -> None:
    model = small.model(2)
    change(write(model, tmp_path), lambda state: state.update({"encoder.layers.0.self_attn.k_scale": torch.ones(1)}))
    same(model, load(tmp_path))


def change(directory: Path, edit: Callable[[dict[str, Tensor]], object], name: str = "model.safetensors") -> None:
    state = load_file(directory / name)
    edit(state)
    save_file(state, directory / name)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


UP, ADAPTER_A = (
    "encoder.layers.0.mlp.up_proj.weight",
    "base_model.model.encoder.layers.1.self_attn.o_proj.lora_A.weight",
)
LORA = "linear_spec_lora/"
ADAPTER_FILE = LORA + "adapter_model.safetensors"


def no_config(at: Path) -> None:
    (at / "config.json").unlink()


def other_architecture(at: Path) -> None:
    edit_json(at / "config.json", architectures=["GPT2LMHeadModel"])


def no_weights(at: Path) -> None:
    (at / "model.safetensors").unlink()


def pickles(at: Path) -> None:
    no_weights(at)
    (at / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")


def truncated(at: Path) -> None:
    path = at / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def empty(at: Path) -> None:
    (at / "model.safetensors").write_bytes(b"")


def garbage(at: Path) -> None:
    (at / "model.safetensors").write_bytes(b"\x80\x02}q\x00." * 50)


def misshapen(at: Path) -> None:
    change(at, lambda state: state.update({UP: torch.zeros(41, 24)}))


def missing(at: Path) -> None:
    change(at, lambda state: state.pop(UP))


def surplus(at: Path) -> None:
    change(at, lambda state: state.update({"encoder.layers.9.extra": torch.zeros(1)}))


def other_names(at: Path) -> None:
    renamed = {f"language_model.{name}": tensor for name, tensor in load_file(at / "model.safetensors").items()}
    save_file(renamed, at / "model.safetensors")


def lost_shard(at: Path) -> None:
    shard(at)
    (at / "model-00002-of-00003.safetensors").unlink()


def broken_index(at: Path) -> None:
    shard(at)
    (at / "model.safetensors.index.json").write_text("{", encoding="utf-8")


def index_without_map(at: Path) -> None:
    shard(at)
    (at / "model.safetensors.index.json").write_text("{}", encoding="utf-8")


def no_adapter_config(at: Path) -> None:
    (at / LORA / "adapter_config.json").unlink()


def broken_adapter_config(at: Path) -> None:
    (at / LORA / "adapter_config.json").write_text("nope", encoding="utf-8")


def no_adapter_weights(at: Path) -> None:
    (at / ADAPTER_FILE).unlink()


def truncated_adapter(at: Path) -> None:
    (at / ADAPTER_FILE).write_bytes((at / ADAPTER_FILE).read_bytes()[:-8])


def adapter_elsewhere(at: Path) -> None:
    edit_json(at / LORA / "adapter_config.json", target_modules=["o_proj", "lm_head"])


def adapter_of_more(at: Path) -> None:
    edit_json(at / LORA / "adapter_config.json", target_modules=["q_proj", "o_proj"])


def adapter_without_rank(at: Path) -> None:
    edit_json(at / LORA / "adapter_config.json", r=None)


def adapter_of_rank_zero(at: Path) -> None:
    edit_json(at / LORA / "adapter_config.json", r=0)


def adapter_of_other_rank(at: Path) -> None:
    edit_json(at / LORA / "adapter_config.json", r=5)


def adapter_tensor_lost(at: Path) -> None:
    change(at, lambda state: state.pop(ADAPTER_A), ADAPTER_FILE)


REFUSALS: list[tuple[Callable[[Path], None], str]] = [
    (no_config, r"no config\.json in"),
    (
        other_architecture,
        r"expected architectures to hold one of 'NemotronLabsDiffusionModel', .*, found \['GPT2LMHeadModel'\]",
    ),
    (no_weights, r"expected model\.safetensors or model\.safetensors\.index\.json in .*, found neither"),
    (pickles, r"holds pickle weights \(pytorch_model\.bin\).*convert them to safetensors"),
    (truncated, r"model\.safetensors is not a whole safetensors file"),
    (empty, r"model\.safetensors is not a whole safetensors file"),
    (garbage, r"model\.safetensors is not a whole safetensors file"),
    (misshapen, r"up_proj\.weight: expected shape \[40, 24\], found \[41, 24\]"),
    (missing, r"missing: encoder\.layers\.0\.mlp\.up_proj\.weight; unexpected: none"),
    (surplus, r"missing: none; unexpected: encoder\.layers\.9\.extra"),
    (other_names, r"missing: diffusion_head\.weight, .* and 18 more; unexpected: language_model\..* and 18 more"),
    (lost_shard, r"names shards that are not there: model-00002-of-00003\.safetensors"),
    (broken_index, r"index\.json is not JSON"),
    (index_without_map, r"index\.json: expected weight_map to map tensor names to file names, found None"),
    (no_adapter_config, r"linear_spec_lora has no adapter_config\.json"),
    (broken_adapter_config, r"adapter_config\.json is not JSON"),
    (no_adapter_weights, r"linear_spec_lora has no adapter_model\.safetensors"),
    (truncated_adapter, r"adapter_model\.safetensors is not a whole safetensors file"),
    (adapter_elsewhere, r"expected target_modules to name projections of this model .*, found 'lm_head'"),
    (adapter_of_more, r"missing: base_model\.model\.encoder\.layers\.0\.self_attn\.q_proj\.lora_A\.weight"),
    (adapter_without_rank, r"expected r and lora_alpha to be numbers, found r=None"),
    (adapter_of_rank_zero, r"found r=0"),
    (adapter_of_other_rank, r"lora_A\.weight: expected shape \[5, 32\], found \[3, 32\]"),
    (adapter_tensor_lost, r"missing: base_model\.model\.encoder\.layers\.1\.self_attn\.o_proj\.lora_A\.weight"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSALS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_spoilt_checkpoint_is_refused_by_name(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(write(small.model(3, rank=3), tmp_path))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("key", sorted(config_json(small.CONFIG).keys() - {"tie_word_embeddings"}))
def test_a_config_without_a_key_is_refused(tmp_path: Path, key: str) -> None:
    write(small.model(3), tmp_path)
    fields = config_json(small.CONFIG)
    del fields[key]
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"config\.json: expected {key}"):
        load(tmp_path)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint directory at .*nowhere"):
        load(tmp_path / "nowhere")


def test_a_tied_checkpoint_needs_its_embedding(tmp_path: Path) -> None:
    change(write(small.model(3, TIED), tmp_path), lambda state: state.pop("encoder.embed_tokens.weight"))
    with pytest.raises(CheckpointError, match=r"missing: encoder\.embed_tokens\.weight"):
        load(tmp_path)


def test_a_model_without_adapter_has_none_to_save(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no adapter"):
        save_adapter(small.model(3), tmp_path)


def test_the_digest_covers_every_byte_in_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"ab")
    two.write_bytes(b"c")
    assert sha256([one, two]) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256([two, one]) != sha256([one, two])
