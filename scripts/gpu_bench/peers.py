"""The same weights elsewhere, in the same run: Hugging Face `generate` with a static cache, and torch.compile.

Knows transformers' Ministral3, whose modules are handed our tensors, and a plain pass of our model over keys and values
in one piece. Both are compiled on a GPU; on a CPU, where this is a trial of the bench, nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor

from trimode.engine.models.config import ModelConfig
from trimode.engine.models.export import ministral3_config
from trimode.engine.models.model import Transformer

from .shapes import parameters
from .timing import Bench, Card

_NAMES = {"encoder.": "model.", "diffusion_head.": "lm_head."}


def hugging_face(model: Transformer, bench: Bench) -> Any:
    """A causal model of transformers on our tensors."""
    from transformers import AutoModelForCausalLM, Ministral3Config

    known = {"rope_parameters": _rope(model.config), "eos_token_id": list(model.config.eos_token_ids)}
    with torch.device(bench.device):
        made = AutoModelForCausalLM.from_config(
            Ministral3Config.from_dict(ministral3_config(known, model.config)), dtype=bench.dtype
        ).eval()
    ours = {name: weight for name, weight in model.state_dict().items() if not name.startswith("adapter.")}
    made.load_state_dict({_renamed(name): weight for name, weight in ours.items()}, assign=True)
    return made


def _renamed(name: str) -> str:
    for ours, theirs in _NAMES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _rope(config: ModelConfig) -> dict[str, Any]:
    rope = config.rope
    keys = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
            "llama_4_scaling_beta")  # fmt: skip
    return {"rope_type": rope.kind, "rope_theta": rope.theta, **{key: getattr(rope, key) for key in keys}}


def generate(made: Any, bench: Bench, context: int, tokens: int) -> dict[str, Callable[[], object]]:
    """`generate` of 1 token and of `tokens` + 1 after a prompt: what lies between them is `tokens` passes."""
    ids = torch.randint(1000 % made.config.vocab_size, made.config.vocab_size, (1, context), device=bench.device)

    def run(count: int) -> object:
        return made.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=count,
            max_new_tokens=count,
            cache_implementation="static",
            pad_token_id=0,
        )

    return {"short": lambda: run(1), "long": lambda: run(tokens + 1)}


def compiled(model: Transformer, bench: Bench, context: int, tokens: Tensor) -> Callable[[], Tensor]:
    """One causal pass of `tokens` [T] behind `context` others by the modules of training, through torch.compile."""
    config, rows = model.config, tokens.shape[0]
    kept = (config.num_hidden_layers, config.num_key_value_heads, context + rows, config.head_dim)
    keys, values = (torch.randn(kept, device=bench.device).to(bench.dtype) for _ in range(2))
    for buffer in (keys, values):  # written in place, which a captured graph takes from fixed addresses only
        torch._dynamo.mark_static_address(buffer)  # pyright: ignore[reportPrivateUsage]
    shown = torch.ones(rows, context + rows, dtype=torch.bool, device=bench.device).tril(context)
    positions = torch.arange(context, context + rows, device=bench.device)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys[layer, :, context:], values[layer, :, context:] = k.transpose(0, 1), v.transpose(0, 1)
        mixed = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None], keys[layer][None], values[layer][None], shown, enable_gqa=True
        )
        return mixed[0].transpose(0, 1)

    def run() -> Tensor:
        return model.head(model(tokens, positions, attend))

    return torch.compile(run, mode="reduce-overhead") if bench.device.type == "cuda" else run


def measure(
    model: Transformer, bench: Bench, card: Card, contexts: list[int], rows: list[int], tokens: int
) -> Iterator[dict[str, Any]]:
    """Milliseconds of a pass, of Hugging Face as the mean of `tokens` passes; batch 1."""
    made = hugging_face(model, bench)
    size = sum(w.nbytes for n, w in model.named_parameters() if not n.startswith(("adapter.", "encoder.embed")))
    for context in contexts:
        seconds = bench.medians(generate(made, bench, context, tokens))
        entry = 2 * context * model.config.num_hidden_layers * model.config.num_key_value_heads * model.config.head_dim
        moved, flop = size + entry * bench.dtype.itemsize, 2 * parameters(model.config)
        each = (seconds["long"] - seconds["short"]) / tokens
        yield {"peer": "transformers generate", "context": context, "rows": 1, **card.row(each, moved, flop)}
        for count in rows:
            run = compiled(model, bench, context, torch.arange(count, device=bench.device))
            found = bench.medians({"run": run})["run"]
            yield {"peer": "torch.compile", "context": context, "rows": count, **card.row(found, moved, count * flop)}
