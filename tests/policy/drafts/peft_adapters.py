"""Bases of `transformers` with a byte tokenizer, and draft adapters for them as PEFT 0.18 writes them.

Names and keys are spelled out a second time here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from byte_tokenizer import write_tokenizer
from safetensors.torch import save_file

SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
END = "<|im_end|>"
MASK = "<|MASK|>"
TEMPLATE = "{%- for m in messages %}{{- m['content'] + '<|im_end|>' }}{%- endfor %}"
HOW = {
    "format": 1,
    "noise": {"ids": [1, 200]},
    "attention": "causal",
    "predicts": "next",
    "exact_first": True,
    "block_lengths": [4, 8],
}


def write_base(directory: Path, family: str = "Llama", seed: int = 3, **changes: Any) -> Any:
    """Writes a random base and returns the model of `transformers` that it is."""
    import transformers

    directory.mkdir(parents=True, exist_ok=True)
    size = write_tokenizer(directory, (END, MASK), {"eos_token": END, "chat_template": TEMPLATE})
    configure: Any = getattr(transformers, f"{family}Config")
    build: Any = getattr(transformers, f"{family}ForCausalLM")
    geometry = {
        "vocab_size": size + 5, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
        "initializer_range": 0.3, "eos_token_id": size - 2, "sliding_window": None, "tie_word_embeddings": False,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = build(configure(**(geometry | changes)))
    made.save_pretrained(directory)
    return made


def write_adapter(
    directory: Path,
    base: Any,
    how: Mapping[str, Any] | None = HOW,
    *,
    rank: int = 4,
    alpha: float = 8,
    targets: Sequence[str] = SEVEN,
    **changes: Any,
) -> None:
    """Writes a random adapter of the base's projections `targets`. `how`: the JSON beside it, None for none."""
    directory.mkdir(parents=True, exist_ok=True)
    generator, tensors = torch.Generator().manual_seed(5), dict[str, torch.Tensor]()
    for name, module in base.named_modules():
        if name.rpartition(".")[2] in targets:
            outputs, inputs = module.weight.shape
            for part, shape in (("lora_A", (rank, inputs)), ("lora_B", (outputs, rank))):
                tensor = 0.2 * torch.randn(*shape, generator=generator)
                tensors[f"base_model.model.{name}.{part}.weight"] = tensor
    save_file(tensors, directory / "adapter_model.safetensors")
    fields = {
        "base_model_name_or_path": "some/base", "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "lora_alpha": alpha, "lora_dropout": 0.0, "modules_to_save": None,
        "peft_type": "LORA", "r": rank, "target_modules": list(targets), "task_type": "CAUSAL_LM", "use_dora": False,
    }  # fmt: skip
    (directory / "adapter_config.json").write_text(json.dumps(fields | changes), encoding="utf-8")
    if how is not None:
        (directory / "trimode_adapter.json").write_text(json.dumps(how), encoding="utf-8")
