"""Small GGUF files, written by the package `gguf` from models of `transformers`, as llama.cpp's converter writes them.

Nothing here is ours: names, the order of query and key rows, and rope factors are spelled out a second time. Slow
imports stand where they are used, because every test run loads this file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import pre_tokenizers

if TYPE_CHECKING:
    import gguf

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = 2
USER = "<think>"
PAIRS = (
    "1 1", "1 2", "12 3", "2 3", "' s", "' S", "Ġ Ġ", "ĠĠ ĠĠ", "Ċ Ċ", "a b", "ab c", "Ġ a", "Ġa b", "A B", "AB C",
    "! !", ". Ċ", "a 1", "Ġ 1", "Ã ©", "/ /", "( a", "ĉ a", "A a", "s '", ". .", "Ì ģ", "a Ì", "a Ìģ", "Ġ .", "č Ċ",
)  # fmt: skip
"""Merges across the borders that pre-tokenizers set: a border in the wrong place gives other ids."""
TEXTS = (
    "", "a", "  a", "   a b  ", "12 123 1231", "11a1 1", "it's IT'S 's'", "abc ABC Abc aAbC",
    "a\n\nb \n\n c\r\n\r\nd", "\ta\t1", "a..!! !!", "(ab) //x /", "é café a\u0301b", " .. . .", "½ ²3 ٣1", "日本 1日",
    "🙂!!", "\u00a0a \u3000b", "A1B 1 1 1", "..\n..", "<think>ab</think>", "<|im_start|>a<|im_end|>", "a  \n  b",
    "\n \n", "x\x00y", "éa1é", "//\n//", "AB'S ab's", "a'", "'", "xa\u0301!",
)  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}
SCALED = {**YARN, "llama_4_scaling_beta": 0.25, "mscale": 1.0, "mscale_all_dim": 1.0}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    ("llama", {"rope_parameters": LLAMA3, "head_dim": 64, "num_key_value_heads": 1}),
    ("llama", {"rope_parameters": YARN, "head_dim": 22}),
    ("qwen3", {"head_dim": 32}),
    ("qwen3", {"tie_word_embeddings": True, "rope_parameters": YARN}),
    ("mistral3", {"rope_parameters": SCALED}),
    ("mistral3", {"rope_parameters": {**SCALED, "mscale_all_dim": None, "mscale": None}, "head_dim": 8}),
]
"""Architectures, and what of their config differs from `oracle`'s own."""


def vocabulary(rows: int) -> tuple[list[str], list[int], list[str]]:
    """Tokens, their kinds and merges: control tokens, bytes, merges, one user-defined, then padding up to `rows`."""
    merges: list[str] = list(PAIRS)
    tokens = [*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(pair.replace(" ", "") for pair in merges), USER]
    kinds = [3] * len(CONTROL) + [1] * (256 + len(merges)) + [4]
    padding = rows - len(tokens)
    return [*tokens, *(f"[PAD{len(tokens) + at}]" for at in range(padding))], kinds + [5] * padding, merges


def oracle(arch: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """A random model of `transformers`, norms included."""
    import transformers

    name = {"llama": "Llama", "qwen3": "Qwen3", "mistral3": "Ministral3"}[arch]
    configure: Any = getattr(transformers, f"{name}Config")
    build: Any = getattr(transformers, f"{name}ForCausalLM")
    geometry = {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "eos_token_id": END,
        "initializer_range": 0.3, "sliding_window": None,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = build(configure(**{**geometry, **changes}, attn_implementation="eager"))
        with torch.no_grad():
            for name, weight in made.named_parameters():
                if "norm" in name:
                    weight.add_(0.3 * torch.randn_like(weight))
    return made.eval()


def written(
    path: Path, made: Any = None, arch: str = "llama", kind: str | Mapping[str, str] = "F32", pre: str = "smollm",
    **keys: Any,
) -> Path:  # fmt: skip
    """`made` as a GGUF file whose matrices are stored as `kind`, or as `kind` has it for a part of their name.

    `keys`: metadata to add, with `__` for dots; None takes out what would be there.
    """
    import gguf

    made = oracle(arch) if made is None else made
    writer = gguf.GGUFWriter(path, arch)
    given = {key.replace("__", "."): value for key, value in keys.items()}
    for key, value in ({**metadata(made, arch, pre), **given}).items():
        if value is not None:
            _add(writer, key, value)
    for name, array in tensors(made, arch).items():
        kinds = [kind] if isinstance(kind, str) else [kind[part] for part in kind if part in name]
        _add_tensor(writer, name, array, kinds[0] if kinds else "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def metadata(made: Any, arch: str, pre: str) -> dict[str, Any]:
    config = made.config
    tokens, kinds, merges = vocabulary(config.vocab_size)
    sizes = {
        "block_count": config.num_hidden_layers, "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size, "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim, "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim, "vocab_size": config.vocab_size,
    }  # fmt: skip
    rope = config.rope_parameters
    found: dict[str, Any] = {
        "rope.freq_base": float(rope["rope_theta"]),
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
    }
    if rope["rope_type"] == "yarn":
        found |= {
            "rope.scaling.type": "yarn", "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
            "rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0,
        }  # fmt: skip
        found |= {"rope.scaling.yarn_log_multiplier": float(scale)} if (scale := rope.get("mscale_all_dim")) else {}
        found |= {"attention.temperature_scale": beta} if (beta := rope.get("llama_4_scaling_beta")) else {}
    return {f"{arch}.{key}": value for key, value in (sizes | found).items()} | {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.merges": merges, "tokenizer.ggml.eos_token_id": END,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.add_bos_token": False, "tokenizer.chat_template": TEMPLATE,
    }  # fmt: skip


def tensors(made: Any, arch: str) -> dict[str, np.ndarray[Any, Any]]:
    """llama.cpp's names and orders."""
    config, state = made.config, {name: tensor.detach().numpy() for name, tensor in made.state_dict().items()}
    found = {"token_embd.weight": state["model.embed_tokens.weight"], "output_norm.weight": state["model.norm.weight"]}
    if not config.tie_word_embeddings:
        found["output.weight"] = state["lm_head.weight"]
    parts = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    }  # fmt: skip
    for layer in range(config.num_hidden_layers):
        for theirs, ours in parts.items():
            array = state.get(f"model.layers.{layer}.{theirs}.weight")
            if array is None:
                continue
            if arch != "qwen3" and ours in ("attn_q", "attn_k"):
                array = side_by_side(array, array.shape[0] // config.head_dim)
            found[f"blk.{layer}.{ours}.weight"] = array
    if config.rope_parameters["rope_type"] == "llama3":
        found["rope_freqs.weight"] = np.array(_llama3(config), np.float32)
    return found


def side_by_side(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """The converter's `permute`."""
    return np.ascontiguousarray(
        rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
    )


def _llama3(config: Any) -> list[float]:
    """The converter's factors for the scaling of Llama 3.1."""
    rope: Mapping[str, Any] = config.rope_parameters
    old, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    found: list[float] = []
    for at in range(0, config.head_dim, 2):
        length = 2 * math.pi * rope["rope_theta"] ** (at / config.head_dim)
        if length < old / high:
            found.append(1.0)
        elif length > old / low:
            found.append(rope["factor"])
        else:
            smooth = (old / length - low) / (high - low)
            found.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return found


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _add_tensor(writer: Any, name: str, array: np.ndarray[Any, Any], kind: str) -> None:
    import gguf

    plain = array.ndim == 1 or name == "rope_freqs.weight"
    meant = gguf.GGMLQuantizationType["F32" if plain else kind]
    if meant.name in ("F32", "F16"):
        writer.add_tensor(name, array.astype(np.float32 if meant.name == "F32" else np.float16))
    else:
        writer.add_tensor(name, blocks(array, meant), raw_dtype=meant)


def blocks(array: np.ndarray[Any, Any], kind: gguf.GGMLQuantizationType) -> np.ndarray[Any, Any]:
    """`array` as `gguf` quantises it; random blocks with sane scales of the types that it only reads (K-quants)."""
    import gguf

    try:
        return gguf.quantize(array, kind)
    except NotImplementedError:
        size, width = gguf.GGML_QUANT_SIZES[kind]
        rng = np.random.default_rng(array.shape[0])
        made = rng.integers(0, 256, (array.shape[0], array.shape[1] // size, width), dtype=np.uint8)
        for at in scales(kind):
            made[..., at : at + 2] = rng.uniform(1e-3, 2e-3, made.shape[:2]).astype("<f2")[..., None].view(np.uint8)
        return made.reshape(array.shape[0], -1)


def scales(kind: gguf.GGMLQuantizationType) -> Sequence[int]:
    """Where the half-precision scales of a block lie."""
    import gguf

    width = gguf.GGML_QUANT_SIZES[kind][1]
    return {"Q2_K": (width - 4, width - 2), "Q3_K": (width - 2,), "Q6_K": (width - 2,)}.get(kind.name, (0, 2))
