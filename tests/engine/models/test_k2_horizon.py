"""K2-Horizon's dense models: a Llama block whose norms cut the hidden row into groups.

The reference is Llama of `transformers` with that norm written out, and the config has the keys of the published ones.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from byte_tokenizer import write_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from peft_adapters import write_adapter
from safetensors.torch import save_file
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import normalizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from trimode.engine.decoding.segment import Segment
from trimode.engine.errors import CheckpointError
from trimode.engine.forward.batch import Batch
from trimode.engine.models.config import ModelConfig
from trimode.engine.models.weights import load_model, save_weights
from trimode.engine.options import ArOptions, LinearSpecOptions
from trimode.engine.request import DecodeRequest
from trimode.engine.token_engine import TokenEngine
from trimode.kernels.native.native_ops import Native
from trimode.kernels.reference import torch_fast, torch_ops
from trimode.policy.calls.engine import Engine

CPU, LENGTH = torch.device("cpu"), 70
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "attention_factor": 1.1,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": True,
}
PUBLISHED: dict[str, Any] = {
    "architectures": ["K2HorizonForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "attention_gate_func": None, "bos_token_id": 0, "decoder_sparse_step": 1, "dtype": "bfloat16", "eos_token_id": 1,
    "head_dim": 8, "hidden_act": "silu", "hidden_size": 24, "initializer_range": 0.3, "intermediate_size": 36,
    "layernorm_num_groups": 4, "max_position_embeddings": 512, "mlp_only_layers": [0, 1], "model_type": "k2_horizon",
    "moe_gate_bias": True, "moe_intermediate_size": 0, "mova_num_experts": 0, "norm_topk_prob": True,
    "num_attention_heads": 4, "num_experts": 0, "num_experts_per_tok": 0, "num_hidden_layers": 2,
    "num_key_value_heads": 2, "num_shared_experts": 0, "pad_token_id": None, "query_key_norm": False,
    "rms_norm_eps": 1e-6, "rope_head_dim": 8, "rope_parameters": {"rope_theta": 1e7, "rope_type": "default"},
    "tie_word_embeddings": False, "use_cache": True, "vocab_size": 61,
}  # fmt: skip


class GroupedNorm(LlamaRMSNorm):
    """The norm of each of `groups` equal parts of a row."""

    groups = 1

    def forward(self, hidden_states: Tensor) -> Tensor:
        parts = hidden_states.reshape(-1, hidden_states.shape[-1] // self.groups)
        parts = parts * torch.rsqrt(parts.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * parts.view(hidden_states.shape)


def written(directory: Path, seed: int = 0, **changes: Any) -> Any:
    """Writes a random checkpoint in the published format; returns its reference."""
    fields = PUBLISHED | changes
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "initializer_range",
             "rope_parameters", "tie_word_embeddings")  # fmt: skip
    configure: Any = LlamaConfig
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = configure(**{name: fields[name] for name in names}, attn_implementation="eager")
        made: Any = LlamaForCausalLM(config)
        for name, module in made.named_modules():
            if name.endswith("norm"):
                module.__class__, module.groups = GroupedNorm, fields["layernorm_num_groups"]
                module.weight.data.add_(0.3 * torch.randn_like(module.weight))
    directory.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in made.state_dict().items()}
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return made.eval()


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_parameters": YARN},
        {"layernorm_num_groups": 1},
        {"layernorm_num_groups": 3, "num_hidden_layers": 3, "num_key_value_heads": 4},
        {"layernorm_num_groups": 2, "hidden_size": 68, "head_dim": 16, "rope_head_dim": 16},
    ],
    ids=str,
)
def test_logits_equal_llama_with_grouped_norms(tmp_path: Path, changes: dict[str, Any], kernels: str) -> None:
    reference = written(tmp_path, **changes)
    model = load_model(tmp_path, torch.float32, CPU)
    tokens = small.prompt(1, LENGTH, 61)
    with TokenEngine(model, small.text, 61, kernels=kernels, kv_bytes=1 << 22) as engine, torch.no_grad():
        pages = engine.pool.take(2)
        first, second = (
            Batch([Segment(start=at, trunk=tokens[at:end], read=end - at)], [pages]).forward(engine.runner, engine.pool)
            for at, end in ((0, 31), (31, LENGTH))
        )
        expected = reference(input_ids=torch.tensor([list(tokens)])).logits[0]
        assert expected.abs().max() > 0.5
        found = torch.cat([rows for ((rows, _),) in (first, second)])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        greedy = engine.decode(DecodeRequest(prompt=tokens, options=ArOptions(), max_tokens=20)).token_ids
    ids = list(tokens)
    with torch.no_grad():
        for token in greedy:
            assert int(reference(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)


@given(groups=st.integers(1, 6), size=st.integers(1, 40), rows=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_norm_is_that_of_each_group_alone(groups: int, size: int, rows: int, seed: int) -> None:
    """To the last bit: a group is a row of its own; and a row's bits do not depend on the rows beside it."""
    drawn = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(rows, groups * size, generator=drawn), torch.randn(groups * size, generator=drawn)
    expected = torch.nn.functional.rms_norm(x.unflatten(1, (groups, size)), (size,), None, 1e-5).flatten(1) * weight
    native: Any = Native.load()
    for kernels in (torch_ops, native, torch_fast):
        found = kernels.rms_norm(x, weight, 1e-5, groups)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        if kernels is not torch_fast:
            parts = x.view(-1, size), weight.view(groups, size)
            alone = [kernels.rms_norm(parts[0][at::groups].contiguous(), parts[1][at], 1e-5) for at in range(groups)]
            assert torch.equal(found, torch.cat(alone, 1))
            assert torch.equal(kernels.rms_norm(x[:1].contiguous(), weight, 1e-5, groups), found[:1])


def test_what_is_written_is_what_was_read(tmp_path: Path) -> None:
    written(tmp_path)
    model = load_model(tmp_path, torch.float32, CPU)
    assert model.config.norm_groups == 4
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "config.json").write_text((tmp_path / "config.json").read_text())
    save_weights(model, tmp_path / "again", torch.float32)
    again = load_model(tmp_path / "again", torch.float32, CPU)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_key_norm": True}, "expected query_key_norm to be False, found True"),
        ({"attention_gate_func": "softplus"}, "expected attention_gate_func to be None, found 'softplus'"),
        ({"num_experts": 100}, "expected num_experts to be 0, found 100"),
        ({"num_shared_experts": 1}, "expected num_shared_experts to be 0, found 1"),
        ({"mova_num_experts": 64}, "expected mova_num_experts to be 0, found 64"),
        ({"rope_head_dim": 4}, "expected rope_head_dim to be head_dim=8, found 4"),
        ({"use_sliding_window": True}, "expected use_sliding_window to be False, found True"),
        ({"sliding_window": 4096}, "expected sliding_window to be None, found 4096"),
        ({"attention_bias": True}, "expected attention_bias to be False, found True"),
        ({"layernorm_num_groups": 5}, "expected layernorm_num_groups to divide hidden_size=24, found 5"),
        ({"layernorm_num_groups": 0}, "expected layernorm_num_groups to divide hidden_size=24, found 0"),
        ({"layernorm_num_groups": None}, "expected layernorm_num_groups to be a non-negative int, found None"),
    ],
)
def test_what_the_larger_models_have_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.from_dict(PUBLISHED | changes)


@pytest.mark.parametrize("named", [True, False])
def test_uno_drafts_for_it_and_texts_are_normalised(tmp_path: Path, named: bool) -> None:
    """UNO's noise ids end at the mask token, or where no file names one with the vocabulary, as its authors have it for
    these models; the tokenizer composes letters (NFC)."""
    directory = tmp_path / "base"
    directory.mkdir()
    size = write_tokenizer(directory, ("<|ifm|im_start|>", "<|ifm|im_end|>"), {"eos_token": "<|ifm|im_end|>"})
    raw = RawTokenizer.from_file(str(directory / "tokenizer.json"))
    raw.normalizer = normalizers.NFC()
    raw.save(str(directory / "tokenizer.json"))
    mask = {"mask_token_id": size} if named else {}
    reference = written(directory, vocab_size=size + 6, eos_token_id=size - 1, **mask)
    write_adapter(tmp_path / "uno", reference, None, rank=128, alpha=8192)
    with Engine.load(directory) as bare, Engine.load(directory, adapter=tmp_path / "uno") as engine:
        assert engine.weights.modes == ("ar", "linear_spec", "quadratic_spec", "lookup_spec")
        assert engine.tokenize("e\u0301a") == engine.tokenize("\u00e9a")
        assert engine.tokens.model.config.drafting.noise.last == (size if named else size + 6) - 1
        for temperature in (0.0, 1.0):
            given: dict[str, Any] = {"max_tokens": 30, "temperature": temperature, "seed": 1}
            plain = bare.generate("abc", mode="ar", **given)
            for mode in engine.weights.modes:
                assert engine.generate("abc", mode=mode, **given).token_ids == plain.token_ids


def test_drafts_of_grouped_norms_agree_across_kernels() -> None:
    config = replace(small.CONFIG, norm_groups=3)
    model = small.model(4, config, shared=4.0, rank=2)
    request = DecodeRequest(
        prompt=(1, 2, 3), options=LinearSpecOptions(block_length=6, exact_first=True), max_tokens=30
    )
    rounds = []
    for kernels in ("native", "torch"):
        with TokenEngine(model, small.text, small.TEXT_VOCAB, kernels=kernels, kv_bytes=1 << 20) as engine:
            rounds.append(engine.decode(request).rounds)
    assert rounds[0] == rounds[1]
