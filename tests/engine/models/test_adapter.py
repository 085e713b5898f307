"""Draft adapters in PEFT's format: every key that changes an output is honoured, by numbers, or refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from safetensors.torch import save_file

from trimode.engine.errors import CheckpointError
from trimode.engine.models.adapter import PROJECTIONS, Rank, adapter_config, read_adapter_config
from trimode.engine.models.adapter_weights import save_adapter
from trimode.engine.models.config import ModelConfig
from trimode.engine.models.model import Transformer
from trimode.engine.models.weights import load_model, save_weights
from trimode.engine.options import LinearSpecOptions
from trimode.engine.request import DecodeRequest
from trimode.engine.token_engine import TokenEngine

CPU = torch.device("cpu")
LEFT = ("rope", "eos_token_ids", "architecture", "selection")
LAYERS = small.CONFIG.num_hidden_layers
PLAIN: dict[str, Any] = {
    "peft_type": "LORA",
    "target_modules": ["o_proj"],
    "r": 4,
    "lora_alpha": 12,
    "bias": "none",
}
# What PEFT 0.18 writes beside these for a plain LoRA.
BESIDE: dict[str, Any] = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
    "base_model_name_or_path": "nvidia/x", "corda_config": None, "ensure_weight_tying": False, "eva_config": None,
    "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
    "layer_replication": None, "layers_pattern": None, "layers_to_transform": None, "loftq_config": {},
    "lora_bias": False, "lora_dropout": 0.05, "megatron_config": None, "megatron_core": "megatron.core",
    "modules_to_save": None, "peft_version": "0.18.0", "qalora_group_size": 16, "rank_pattern": {}, "revision": None,
    "target_parameters": None, "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_dora": False,
    "use_qalora": False, "use_rslora": False,
}  # fmt: skip


def loaded(at: Path, fields: Mapping[str, Any], ranks: list[int]) -> tuple[Transformer, list[torch.Tensor]]:
    """A checkpoint with an adapter of `ranks` under `fields`, and each layer's B A, without any scale."""
    save_weights(small.model(1), at, torch.float32)
    config = {name: getattr(small.CONFIG, name) for name in ModelConfig.__slots__ if name not in LEFT}
    config |= {"architectures": [small.CONFIG.architecture], "eos_token_id": small.EOS}
    (at / "config.json").write_text(json.dumps(config | {"rope_parameters": {"rope_theta": small.CONFIG.rope.theta}}))
    folder = at / "linear_spec_lora"
    folder.mkdir()
    generator, tensors, products = torch.Generator().manual_seed(1), dict[str, torch.Tensor](), list[torch.Tensor]()
    inputs = small.CONFIG.num_attention_heads * small.CONFIG.head_dim
    for layer, rank in enumerate(ranks):
        low = torch.randn(rank, inputs, generator=generator)
        high = torch.randn(small.CONFIG.hidden_size, rank, generator=generator)
        name = f"base_model.model.encoder.layers.{layer}.self_attn.o_proj"
        tensors |= {f"{name}.lora_A.weight": low, f"{name}.lora_B.weight": high}
        products.append(high @ low)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**PLAIN, **fields}))
    return load_model(at, torch.float32, CPU), products


@pytest.mark.parametrize(
    ("fields", "ranks", "scales"),
    [
        ({}, [4, 4], [3.0, 3.0]),
        (BESIDE, [4, 4], [3.0, 3.0]),
        ({"init_lora_weights": "gaussian"}, [4, 4], [3.0, 3.0]),
        ({"use_rslora": True}, [4, 4], [6.0, 6.0]),
        ({"alpha_pattern": {r"layers\.1\.self_attn\.o_proj": 2}}, [4, 4], [3.0, 0.5]),
        ({"alpha_pattern": {"o_proj": 20}}, [4, 4], [5.0, 5.0]),
        ({"alpha_pattern": {"proj": 20, "q_proj": 7}}, [4, 4], [3.0, 3.0]),
        ({"rank_pattern": {"layers.0.self_attn.o_proj": 2}}, [2, 4], [6.0, 3.0]),
        (
            {"use_rslora": True, "rank_pattern": {"^encoder.layers.1.*": 9}, "alpha_pattern": {"layers.1.*": 6}},
            [4, 9],
            [6.0, 2.0],
        ),
    ],
)
def test_scale_and_rank_of_every_layer(
    tmp_path: Path, fields: dict[str, Any], ranks: list[int], scales: list[float]
) -> None:
    """The branch equals alpha / r (or alpha / sqrt(r)) times B A x, computed here."""
    model, products = loaded(tmp_path, fields, ranks)
    x = torch.randn(5, products[0].shape[1], generator=torch.Generator().manual_seed(2))
    for layer, (dense, scale) in enumerate(zip(products, scales, strict=True)):
        part = model.adapter_terms(layer)["o_proj"]
        torch.testing.assert_close(part(x), scale * (x @ dense.T), rtol=1e-5, atol=1e-4)


def test_layers_of_several_ranks_draft_and_are_saved(tmp_path: Path) -> None:
    fields = {"rank_pattern": {"layers.0.self_attn.o_proj": 2}, "use_rslora": True}
    model, _ = loaded(tmp_path, fields, [2, 4])
    request = DecodeRequest(prompt=(1, 2, 3), options=LinearSpecOptions(block_length=6), max_tokens=12)
    then = small.engine(model).decode(request)
    save_adapter(model, tmp_path / "linear_spec_lora")
    again = load_model(tmp_path, torch.float32, CPU)
    assert small.engine(again).decode(request).rounds == then.rounds
    scales = [again.adapter_terms(layer)["o_proj"].scale for layer in range(LAYERS)]
    assert scales == pytest.approx([12 / math.sqrt(2), 6.0])


@pytest.mark.parametrize("ranks", [[2, 4], [4, 2], [1, 9]])
def test_native_kernels_take_each_layers_own_rank(tmp_path: Path, ranks: list[int]) -> None:
    """As torch does: drafts, which the adapter alone decides, have the same tokens."""
    fields = {"rank_pattern": {f"layers.{at}.self_attn.o_proj": rank for at, rank in enumerate(ranks)}}
    found = list[list[tuple[int, ...]]]()
    for kernels in ("native", "torch"):
        (tmp_path / kernels).mkdir()
        model, _ = loaded(tmp_path / kernels, fields, ranks)
        engine = TokenEngine(model, small.text, small.TEXT_VOCAB, kernels=kernels, kv_bytes=1 << 22)
        ask = [
            DecodeRequest(prompt=small.prompt(seed, 5), options=LinearSpecOptions(block_length=6), max_tokens=24)
            for seed in range(6)
        ]
        results = engine.decode_many(ask)
        found.append([tuple(one.token for made in result.rounds for one in made.rejected) for result in results])
        engine.close()
    assert any(found[0])
    assert found[0] == found[1]


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    written: list[list[dict[str, Rank]]] = [
        [{"o_proj": Rank(4, 3.0)}] * 12,
        [{"o_proj": Rank(2 + layer % 3, 0.5 * layer)} for layer in range(12)],
        [dict.fromkeys(PROJECTIONS, Rank(8, 2.0))] * 12,
        [{name: Rank(1 + layer + at, 0.25 * (1 + at)) for at, name in enumerate(PROJECTIONS)} for layer in range(12)],
        [{"q_proj": Rank(2, 1.0)} if layer % 2 else {"down_proj": Rank(3, 1.0)} for layer in range(12)],
    ]
    for ranks, prefix in product(written, ("encoder.", "model.", "language_model.model.")):
        path.write_text(json.dumps(adapter_config(ranks, prefix)))
        found = read_adapter_config(path, 12, prefix)
        for made, expected in zip(found, ranks, strict=True):
            assert {name: rank.rank for name, rank in made.items()} == {n: rank.rank for n, rank in expected.items()}
            assert [made[name].scale for name in expected] == pytest.approx([rank.scale for rank in expected.values()])


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("all-linear", [set(PROJECTIONS), set(PROJECTIONS)]),
        (["q_proj", "down_proj"], [{"q_proj", "down_proj"}] * 2),
        (["layers.1.mlp.up_proj"], [set(), {"up_proj"}]),
        (["encoder.layers.0.self_attn.k_proj", "v_proj"], [{"k_proj", "v_proj"}, {"v_proj"}]),
        (r".*\.(gate|up)_proj", [{"gate_proj", "up_proj"}] * 2),
    ],
)
def test_targets_are_matched_as_peft_matches_them(tmp_path: Path, targets: Any, expected: list[set[str]]) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**PLAIN, "target_modules": targets}))
    assert [set(layer) for layer in read_adapter_config(path, 2, "encoder.")] == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "expected peft_type 'LORA', found 'IA3'; train a plain LoRA of q_proj, k_proj"),
        ({"target_modules": ["o_proj", "lm_head"]}, r"target_modules to name projections .*, found 'lm_head'; train"),
        ({"target_modules": ["embed_tokens"]}, "found 'embed_tokens'"),
        ({"target_modules": ["layers.7.self_attn.q_proj"]}, r"found 'layers\.7\.self_attn\.q_proj'"),
        ({"target_modules": "("}, r"target_modules '\(' is no regular expression"),
        ({"target_modules": []}, r"to name projections of this model .*, found \[\]"),
        ({"target_modules": None}, "found None"),
        ({"use_dora": True}, "expected use_dora False, found True; train it without DoRA"),
        ({"fan_in_fan_out": True}, r"fan_in_fan_out False, found True; transpose the weights"),
        ({"bias": "lora_only"}, "bias 'none', found 'lora_only'; train it with bias='none'"),
        ({"lora_bias": True}, "lora_bias False, found True; train it without a bias"),
        ({"modules_to_save": ["norm"]}, r"modules_to_save None, found \['norm'\]; such modules would replace"),
        ({"layers_to_transform": [0]}, r"layers_to_transform None, found \[0\]; train it on every layer"),
        ({"layers_to_transform": 0}, "layers_to_transform None, found 0;"),
        ({"layers_pattern": "layers"}, "layers_pattern None, found 'layers'"),
        ({"exclude_modules": ["0"]}, r"exclude_modules None, found \['0'\]; name the modules"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights True, found 'pissa'; its base weights are not"),
        ({"init_lora_weights": "olora"}, "found 'olora'"),
        ({"init_lora_weights": "loftq"}, "found 'loftq'"),
        ({"use_qalora": True}, "use_qalora=True is not known here; train a plain LoRA"),
        ({"trainable_token_indices": [3]}, r"trainable_token_indices=\[3\] is not known here"),
        ({"layer_replication": [[0, 2]]}, "layer_replication=.* is not known here"),
        ({"some_later_idea": 0.5}, "some_later_idea=0.5 is not known here"),
        ({"use_rslora": "yes"}, "expected use_rslora to be true or false, found 'yes'"),
        ({"alpha_pattern": [3]}, r"expected alpha_pattern to map patterns to numbers, found \[3\]"),
        ({"alpha_pattern": {"(": 3}}, r"alpha_pattern '\(' is no regular expression"),
        ({"alpha_pattern": {"o_proj": "3"}}, "found r=4, lora_alpha='3'"),
        ({"rank_pattern": {"o_proj": 0}}, "to be numbers, found r=0"),
        ({"r": True}, "found r=True"),
    ],
)
def test_everything_else_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**PLAIN, **BESIDE, **fields}))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_adapter_config(path, LAYERS, "encoder.")
    assert str(path) in str(caught.value)
