"""Checkpoints of other families, written by `transformers` and read by us: the same logits, the same greedy ids, and a
refusal by name for everything that would not be.

The reference is the very model that was saved. Every directory is made here, random and small.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import small
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    PixtralVisionConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.ministral3.configuration_ministral3 import Ministral3Config
from transformers.models.ministral3.modeling_ministral3 import Ministral3ForCausalLM

from trimode.engine.decoding.segment import Segment
from trimode.engine.errors import CheckpointError, ModeUnavailable, RequestError
from trimode.engine.forward.batch import Batch
from trimode.engine.forward.runner import Runner
from trimode.engine.kv_cache.pages import PagePool, pages_for
from trimode.engine.models.config import ModelConfig
from trimode.engine.models.families import FAMILIES, NLD, check_mode
from trimode.engine.models.model import Transformer
from trimode.engine.models.weight_files import weight_files
from trimode.engine.models.weights import load_model, save_weights
from trimode.engine.options import DiffusionOptions, LinearSpecOptions, Options
from trimode.engine.request import DecodeRequest
from trimode.engine.result import Mode
from trimode.engine.token_engine import TokenEngine
from trimode.kernels import ops

CPU, VOCAB, LENGTH = torch.device("cpu"), 61, 90
CLASSES: dict[str, tuple[Any, Any]] = {
    "LlamaForCausalLM": (LlamaConfig, LlamaForCausalLM),
    "Qwen3ForCausalLM": (Qwen3Config, Qwen3ForCausalLM),
    "Ministral3ForCausalLM": (Ministral3Config, Ministral3ForCausalLM),
    "MistralForCausalLM": (MistralConfig, MistralForCausalLM),
}
AR_ONLY = sorted(CLASSES)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}
OWN_LENGTH = {**YARN, "original_max_position_embeddings": 512}
SCALED = {
    **YARN,
    "llama_4_scaling_beta": 0.3,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16,
}
WINDOWLESS: dict[str, Any] = {"sliding_window": None}


@dataclass(frozen=True)
class Case:
    """One random model: what differs from the smallest geometry."""

    architecture: str
    changes: dict[str, Any] = field(default_factory=dict[str, Any])
    shard: str = "1GB"

    def __repr__(self) -> str:
        parts = [
            f"{key}={value.get('rope_type') if isinstance(value, dict) else value}"
            for key, value in self.changes.items()
        ]
        return "-".join([self.architecture.removesuffix("ForCausalLM"), *parts])


CASES = [
    Case("LlamaForCausalLM"),
    Case("LlamaForCausalLM", {"tie_word_embeddings": True, "num_key_value_heads": 4}, "4KB"),
    Case("LlamaForCausalLM", {"rope_parameters": LLAMA3, "head_dim": 64, "num_key_value_heads": 1}),
    Case("LlamaForCausalLM", {"rope_parameters": {**LLAMA3, "factor": 32.0, "high_freq_factor": 2.5}, "head_dim": 128}),
    Case("LlamaForCausalLM", {"rope_parameters": YARN, "head_dim": 22}),
    Case("Qwen3ForCausalLM", {"head_dim": 16}),
    Case("Qwen3ForCausalLM", {"head_dim": 10, "tie_word_embeddings": True, "num_key_value_heads": 1}, "4KB"),
    Case("Qwen3ForCausalLM", {"head_dim": 32, "rope_parameters": YARN, "num_key_value_heads": 4}, "20KB"),
    Case("Ministral3ForCausalLM", {"head_dim": 16, "rope_parameters": SCALED}),
    Case("Ministral3ForCausalLM", {"head_dim": 6, "rope_parameters": SCALED, "tie_word_embeddings": True}, "4KB"),
    Case("MistralForCausalLM", {"head_dim": 12, "num_key_value_heads": 4, **WINDOWLESS}),
    Case("MistralForCausalLM", {"head_dim": 18, **WINDOWLESS}, "8KB"),
]
PLAIN = [Case("LlamaForCausalLM"), CASES[5], CASES[8]]


def reference_model(case: Case, seed: int = 0) -> Any:
    """A random model of `transformers`, norms included: fresh ones are all ones and would hide a missing one."""
    configure, build = CLASSES[case.architecture]
    geometry = {
        "vocab_size": VOCAB,
        "hidden_size": 24,
        "intermediate_size": 36,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = build(configure(**{**geometry, **case.changes}, attn_implementation="eager"))
        with torch.no_grad():
            for name, weight in made.named_parameters():
                if "norm" in name:
                    weight.add_(0.3 * torch.randn_like(weight))
    return made.eval()


def saved(case: Case, directory: Path, seed: int = 0) -> Any:
    made = reference_model(case, seed)
    made.save_pretrained(directory, max_shard_size=case.shard)
    return made


def edit_json(path: Path, **changes: Any) -> None:
    """Sets keys of a JSON file; a value of `...` takes the key out."""
    fields = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}), encoding="utf-8")


def load(directory: Path) -> Transformer:
    return load_model(directory, torch.float32, CPU)


def token_engine(model: Transformer) -> TokenEngine:
    return TokenEngine(model, small.text, VOCAB)


def logits(model: Transformer, tokens: Sequence[int], cuts: Sequence[int] = ()) -> Tensor:
    """Causal logits [T, V] of `tokens`, prefilled up to each cut in turn."""
    pool = PagePool(model.config, 1 << 20, torch.float32, CPU)
    table, runner = pool.take(pages_for(LENGTH)), Runner(model, *ops.kernels(CPU, torch.float32))
    found: list[Tensor] = []
    with torch.inference_mode():
        for a, b in pairwise([0, *cuts, len(tokens)]):
            segment = Segment(start=a, trunk=tuple(tokens[a:b]), read=b - a)
            found += [rows for rows, _ in Batch([segment], [table]).forward(runner, pool)]
    return torch.cat(found)


@torch.no_grad()
def reference_logits(made: Any, tokens: Sequence[int]) -> Tensor:
    found: Tensor = made(input_ids=torch.tensor([list(tokens)])).logits[0]
    return found


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_logits_are_those_of_transformers(tmp_path: Path, case: Case) -> None:
    made = saved(case, tmp_path)
    tokens = small.prompt(1, LENGTH, VOCAB)
    expected = reference_logits(made, tokens)
    assert expected.std() > 0.5
    assert len(weight_files(tmp_path)) == 1 or case.shard != "1GB"
    for cuts in ([], [1, 33, 64, 65]):
        torch.testing.assert_close(logits(load(tmp_path), tokens, cuts), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("seed", [1, 2])
def test_greedy_ids_are_those_of_transformers(tmp_path: Path, case: Case, seed: int) -> None:
    made = saved(case, tmp_path, seed)
    prompt = small.prompt(seed, 9, VOCAB)
    with torch.no_grad():
        whole = made.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False, pad_token_id=2)[0]
    result = token_engine(load(tmp_path)).decode(DecodeRequest(prompt=prompt, max_tokens=40))
    assert list(result.token_ids) == whole[len(prompt) :].tolist()


@pytest.mark.parametrize("case", PLAIN, ids=repr)
def test_rows_of_a_pass_are_bitwise_those_of_one_token_passes(tmp_path: Path, case: Case) -> None:
    saved(case, tmp_path)
    model, tokens = load(tmp_path), small.prompt(3, LENGTH, VOCAB)
    assert torch.equal(logits(model, tokens), logits(model, tokens, range(1, LENGTH)))


@pytest.mark.parametrize("case", [*PLAIN, CASES[1]], ids=repr)
def test_weights_are_written_back_under_the_names_they_came_with(tmp_path: Path, case: Case) -> None:
    saved(Case(case.architecture, case.changes), tmp_path)
    save_weights(load(tmp_path), tmp_path / "again", torch.float32)
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_sharded_tied_weights_stay_one_tensor(tmp_path: Path) -> None:
    saved(CASES[1], tmp_path)
    assert len(weight_files(tmp_path)) > 3
    model = load(tmp_path)
    assert model.diffusion_head.weight is model.encoder.embed_tokens.weight


def mapped(directory: Path) -> list[range]:
    """Where files of `directory` lie in this process's memory."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    spans = [line.split()[0].split("-") for line in lines if str(directory) in line]
    return [range(int(begin, 16), int(end, 16)) for begin, end in spans]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's list of mapped files")
@pytest.mark.parametrize("case", [*PLAIN, CASES[1]], ids=repr)
def test_weights_are_used_where_the_files_are_mapped(tmp_path: Path, case: Case) -> None:
    saved(case, tmp_path)
    model = load(tmp_path)
    spans = mapped(tmp_path)
    for name, weight in model.named_parameters():
        assert any(weight.data_ptr() in span for span in spans), name


def test_a_tied_head_that_differs_is_refused(tmp_path: Path) -> None:
    case = Case("LlamaForCausalLM", {"tie_word_embeddings": True})
    made = saved(case, tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    embedding = state["model.embed_tokens.weight"]
    save_file({**state, "lm_head.weight": embedding.clone()}, path)
    tokens = small.prompt(5, 20, VOCAB)
    torch.testing.assert_close(logits(load(tmp_path), tokens), reference_logits(made, tokens), rtol=0, atol=1e-4)
    save_file({**state, "lm_head.weight": embedding + 1}, path)
    with pytest.raises(CheckpointError, match=r"expected lm_head\.weight to equal model\.embed_tokens\.weight"):
        load(tmp_path)


def test_frequencies_in_old_llama_files_are_passed_over(tmp_path: Path) -> None:
    made = saved(PLAIN[0], tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    save_file({**state, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3)}, path)
    tokens = small.prompt(4, 20, VOCAB)
    torch.testing.assert_close(logits(load(tmp_path), tokens), reference_logits(made, tokens), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("rope", "older"),
    [
        ({"rope_type": "default", "rope_theta": 5e5}, {"rope_theta": 5e5, "rope_scaling": None}),
        (LLAMA3, {"rope_theta": 5e5, "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"}}),
        (YARN, {"rope_theta": 1e6, "rope_scaling": {k: v for k, v in YARN.items() if k != "rope_theta"}}),
        (OWN_LENGTH, {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0}}),
        ({"rope_type": "default", "rope_theta": 1e4}, {}),
    ],
    ids=["default", "llama3", "yarn", "yarn-own-length", "nothing"],
)  # fmt: skip
def test_older_spellings_of_rope_mean_the_same(tmp_path: Path, rope: dict[str, Any], older: dict[str, Any]) -> None:
    saved(Case("LlamaForCausalLM", {"rope_parameters": rope}), tmp_path)
    newer = ModelConfig.load(tmp_path)
    edit_json(tmp_path / "config.json", rope_parameters=..., **older)
    assert ModelConfig.load(tmp_path) == newer


def test_llama_derives_the_head_geometry_that_old_configs_leave_out(tmp_path: Path) -> None:
    saved(Case("LlamaForCausalLM", {"num_key_value_heads": 4}), tmp_path)
    newer = ModelConfig.load(tmp_path)
    for gone in (..., None):
        edit_json(tmp_path / "config.json", head_dim=gone, num_key_value_heads=gone)
        assert ModelConfig.load(tmp_path) == newer
    assert (newer.head_dim, newer.num_key_value_heads, newer.mask_token_id) == (6, 4, None)


def test_generation_config_says_where_a_chat_model_ends(tmp_path: Path) -> None:
    saved(PLAIN[0], tmp_path)
    assert ModelConfig.load(tmp_path).eos_token_ids == (2,)
    edit_json(tmp_path / "generation_config.json", eos_token_id=[7, 9])
    assert ModelConfig.load(tmp_path).eos_token_ids == (7, 9)
    edit_json(tmp_path / "config.json", eos_token_id=None)
    assert ModelConfig.load(tmp_path).eos_token_ids == (7, 9)
    edit_json(tmp_path / "generation_config.json", eos_token_id=None)
    with pytest.raises(CheckpointError, match="expected eos_token_id to be an id or a list of ids, found None"):
        ModelConfig.load(tmp_path)
    edit_json(tmp_path / "generation_config.json", eos_token_id=VOCAB)
    with pytest.raises(CheckpointError, match=f"expected eos_token_id below vocab_size={VOCAB}, found {VOCAB}"):
        ModelConfig.load(tmp_path)


VISION = "Mistral3ForConditionalGeneration"
ALIGNED = "SDARForCausalLM"  # test_sdar.py


def saved_with_vision(directory: Path, tied: bool, shard: str = "1GB", **text: Any) -> Any:
    """A random model with a vision tower beside its text model, as Ministral 3 is published."""
    inner = reference_model(CASES[8]).config.to_dict() | text
    kind: Any = {"ministral3": Ministral3Config, "mistral": MistralConfig}[inner["model_type"]]
    eyes: Any = PixtralVisionConfig
    whole: Any = Mistral3Config
    build: Any = Mistral3ForConditionalGeneration
    vision = eyes(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        made = build(whole(text_config=kind(**inner), vision_config=vision, tie_word_embeddings=tied)).eval()
        with torch.no_grad():
            for weight in made.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
    made.save_pretrained(directory, max_shard_size=shard)
    return made


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard", ["1GB", "8KB"])
def test_the_text_model_of_a_vision_model_gives_its_logits(tmp_path: Path, tied: bool, shard: str) -> None:
    made = saved_with_vision(tmp_path, tied, shard)
    tokens = small.prompt(6, LENGTH, VOCAB)
    torch.testing.assert_close(logits(load(tmp_path), tokens), reference_logits(made, tokens), rtol=0, atol=1e-4)
    assert ModelConfig.load(tmp_path).tie_word_embeddings == tied


def test_the_text_model_may_be_an_older_mistral(tmp_path: Path) -> None:
    made = saved_with_vision(
        tmp_path, False, model_type="mistral", rope_parameters={"rope_type": "default", "rope_theta": 1e5}
    )
    tokens = small.prompt(7, LENGTH, VOCAB)
    torch.testing.assert_close(logits(load(tmp_path), tokens), reference_logits(made, tokens), rtol=0, atol=1e-4)


def test_a_vision_models_config_is_read_from_both_levels(tmp_path: Path) -> None:
    saved_with_vision(tmp_path, tied=False)
    path, inner = tmp_path / "config.json", json.loads((tmp_path / "config.json").read_text())["text_config"]
    edit_json(path, tie_word_embeddings=..., text_config={**inner, "tie_word_embeddings": True})
    assert ModelConfig.load(tmp_path).tie_word_embeddings
    edit_json(tmp_path / "generation_config.json", eos_token_id=[7, 9])
    assert ModelConfig.load(tmp_path).eos_token_ids == (7, 9)
    for changes, message in (
        ({"quantization_config": {"quant_method": "fp8"}}, "expected quantization_config to be None"),
        ({"text_config": {**inner, "model_type": "qwen2"}}, "expected model_type to be 'ministral3', found 'qwen2'"),
        ({"text_config": 3}, "expected text_config to be an object, found 3"),
        ({"text_config": ...}, "expected model_type to be 'ministral3', found 'mistral3'"),
    ):
        before = path.read_text(encoding="utf-8")
        edit_json(path, **changes)
        with pytest.raises(CheckpointError, match=message):
            ModelConfig.load(tmp_path)
        path.write_text(before, encoding="utf-8")


REFUSED: list[tuple[Case, dict[str, Any], str]] = [
    (PLAIN[0], {"attention_bias": True}, "expected attention_bias to be False, found True"),
    (PLAIN[0], {"mlp_bias": True}, "expected mlp_bias to be False, found True"),
    (PLAIN[0], {"sliding_window": 16}, "expected sliding_window to be None, found 16"),
    (PLAIN[0], {"quantization_config": {"bits": 4}}, r"expected quantization_config to be None, found \{'bits': 4\}"),
    (PLAIN[0], {"hidden_act": "gelu"}, "expected hidden_act 'silu', found 'gelu'"),
    (PLAIN[0], {"architectures": ["Qwen3MoeForCausalLM"]}, r"'Qwen3ForCausalLM', .*, found \['Qwen3MoeForCausalLM'\]"),
    (PLAIN[0], {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "expected rope_type to be one of .*'dynamic'"),
    (PLAIN[0], {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor with rope_type 'llama3'"),
    (PLAIN[0], {"rope_scaling": {**LLAMA3, "low_freq_factor": 4}}, "expected 0 < low_freq_factor < high_freq_factor"),
    (PLAIN[0], {"rope_scaling": 3}, "expected rope_parameters with rope_theta inside, found 3"),
    (PLAIN[0], {"partial_rotary_factor": 0.5}, "partial_rotary_factor to be 1, found 0.5"),
    (PLAIN[0], {"num_attention_heads": 0}, "expected num_attention_heads to be positive, found 0"),
    (PLAIN[1], {"attention_bias": True}, "expected attention_bias to be False, found True"),
    (PLAIN[1], {"use_sliding_window": True}, "expected use_sliding_window to be False, found True"),
    (PLAIN[1], {"layer_types": ["full_attention", "sliding_attention"]}, "expected layer_types to be 'full_attention'"),
    (PLAIN[1], {"layer_types": 3}, "expected layer_types to be 'full_attention' throughout, found 3"),
    (PLAIN[1], {"head_dim": None}, "expected head_dim to be a non-negative int, found None"),
    (PLAIN[1], {"rope_parameters": ...}, "expected rope_parameters with rope_theta inside"),
    (PLAIN[2], {"sliding_window": 16}, "expected sliding_window to be None, found 16"),
    (CASES[11], {"sliding_window": ...}, "expected sliding_window to be None, found 4096"),
    (PLAIN[1], {"architectures": ["LlamaForCausalLM"]}, r"unexpected: model\.layers\.0\.self_attn\.k_norm\.weight"),
    (PLAIN[0], {"architectures": ["Qwen3ForCausalLM"]}, r"missing: model\.layers\.0\.self_attn\.k_norm\.weight"),
    (PLAIN[0], {"head_dim": 8}, r"model\.layers\.0\.self_attn\.q_proj\.weight: expected shape \[32, 24\], found"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "changes", "message"), REFUSED, ids=lambda value: str(value)[:50])
def test_a_variant_that_cannot_be_run_is_refused(
    tmp_path: Path, case: Case, changes: dict[str, Any], message: str
) -> None:
    saved(case, tmp_path)
    edit_json(tmp_path / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_a_width_without_its_switch_is_no_window(tmp_path: Path) -> None:
    saved(PLAIN[1], tmp_path)
    edit_json(tmp_path / "config.json", sliding_window=4096, use_sliding_window=False)
    load(tmp_path)


@pytest.mark.parametrize("case", PLAIN, ids=repr)
@pytest.mark.parametrize("options", [DiffusionOptions(), LinearSpecOptions()], ids=lambda options: options.mode)
def test_a_mode_that_the_weights_do_not_have_is_refused(tmp_path: Path, case: Case, options: Options) -> None:
    saved(case, tmp_path)
    engine = token_engine(load(tmp_path))
    with pytest.raises(ModeUnavailable) as caught:
        engine.decode(DecodeRequest(prompt=(1, 2), options=options, max_tokens=4))
    for word in (case.architecture, repr(options.mode), "in ar, lookup_spec only", "pass mode='ar'", "trimode.toml"):
        assert word in str(caught.value)
    assert isinstance(caught.value, RequestError)
    assert (caught.value.mode, caught.value.modes) == (options.mode, ("ar", "lookup_spec"))
    assert len(engine.decode(DecodeRequest(prompt=(1, 2), max_tokens=4)).token_ids) == 4


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("architecture", list(FAMILIES))
def test_every_mode_of_every_family_is_said_or_refused(architecture: str, mode: Mode) -> None:
    if architecture == NLD or mode in (["diffusion"] if architecture == ALIGNED else ["ar", "lookup_spec"]):
        check_mode(architecture, mode)
    else:
        with pytest.raises(ModeUnavailable):
            check_mode(architecture, mode)


def test_every_family_has_a_test_against_transformers() -> None:
    grouped = "K2HorizonForCausalLM"  # in test_k2_horizon.py
    assert sorted([NLD, VISION, ALIGNED, grouped, *AR_ONLY]) == sorted(FAMILIES)
    assert {case.architecture for case in CASES} == set(AR_ONLY)


def test_without_a_mask_token_every_id_of_the_tokenizer_can_be_chosen(tmp_path: Path) -> None:
    saved(PLAIN[0], tmp_path)
    assert not token_engine(load(tmp_path)).banned.any()
    assert ModelConfig.load(tmp_path).mask_id == -1
