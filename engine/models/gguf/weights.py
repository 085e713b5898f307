"""The tensors of a GGUF file as modules: names of llama.cpp, blocks dequantised, the rows of queries and keys in place.

Knows tensor names and shapes on both sides; blocks are `gguf`'s business. Whole weights come out, whatever the file
stores: 8 to 4 bits become the dtype asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Final, cast

import numpy as np
import torch
from torch import Tensor

from trimode.kernels.ops import FORMS, Blocks, Form, begin_in_child, finite

from ..config import ModelConfig
from ..model import Transformer
from ..stored import stored_matrices
from ..tensors import check_finite
from ..weights import assembled, assembled_in_files
from .config import EMBEDDING, FREQUENCIES, HEAD, architecture_of, gguf_config
from .file import GgufFile, Place, library

_LAYER: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_QK_NORM: Final = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_PLAIN: Final[Mapping[str, tuple[str, torch.dtype | None]]] = {
    "F32": ("<f4", None),
    "F16": ("<f2", None),
    "BF16": ("<i2", torch.bfloat16),
}
"""Types that are numbers one by one: how numpy reads them, and what torch takes those bits for."""


def load_gguf(file: GgufFile, dtype: torch.dtype, device: torch.device, in_files: bool = False) -> Transformer:
    """The model of `file` in `dtype`, in evaluation mode.

    `in_files`: its matrices stay in the file, in blocks where the file has them so, for kernels that pack them. Raises
    CheckpointError before any tensor is read, where names or shapes are not those of its metadata, and behind it for
    numbers that are not finite.
    """
    begin_in_child()
    config = gguf_config(file)
    _check_shapes(file, config)
    stored = config.family.stored
    if in_files:
        theirs = names(config)
        matrices = stored_matrices(file.path, [file.path], lambda name: _as_stored(file, config, theirs[name]))
        shapes = {stored(ours): shape_of(config, name) for ours, name in theirs.items()}
        return assembled_in_files(config, matrices, shapes, dtype, device)
    found = {stored(ours): tensor.to(device=device, dtype=dtype) for ours, tensor in _tensors(file, config)}
    return assembled(config, found, file.path, device)


def names(config: ModelConfig) -> dict[str, str]:
    """Our tensor names to llama.cpp's."""
    parts = _LAYER | (_QK_NORM if config.family.qk_norm else {})
    layers = {
        f"encoder.layers.{layer}.{ours}.weight": f"blk.{layer}.{theirs}.weight"
        for layer in range(config.num_hidden_layers)
        for ours, theirs in parts.items()
    }
    head = {} if config.tie_word_embeddings else {"diffusion_head.weight": HEAD}
    return {"encoder.embed_tokens.weight": EMBEDDING, **layers, "encoder.norm.weight": "output_norm.weight", **head}


def shape_of(config: ModelConfig, name: str) -> tuple[int, ...]:
    """The shape of llama.cpp's tensor `name`, rows first."""
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (config.vocab_size, hidden), "output": (config.vocab_size, hidden), "attn_q": (queries, hidden),
        "attn_k": (keys, hidden), "attn_v": (keys, hidden), "attn_output": (hidden, queries), "attn_q_norm": (head,),
        "attn_k_norm": (head,), "ffn_gate": (inner, hidden), "ffn_up": (inner, hidden), "ffn_down": (hidden, inner),
    }  # fmt: skip
    return shapes.get(name.removesuffix(".weight").rpartition(".")[2], (hidden,))


def _check_shapes(file: GgufFile, config: ModelConfig) -> None:
    expected = dict.fromkeys(names(config).values())
    for said, found in (
        ("missing", expected.keys() - file.places.keys()),
        ("unexpected", file.places.keys() - expected.keys() - {FREQUENCIES}),
    ):
        if found:
            listed = ", ".join(sorted(found)[:3])
            raise file.error(f"tensors differ from the metadata; {said}: {listed} ({len(found)} in all)")
    for name in expected:
        if file.places[name].shape != shape_of(config, name):
            shapes = f"expected {list(shape_of(config, name))}, found {list(file.places[name].shape)}"
            raise file.error(f"{name}: {shapes} (rows, columns)")


def _tensors(file: GgufFile, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    for ours in names(config):
        yield ours, gguf_tensor(file, config, ours)


def gguf_tensor(file: GgufFile, config: ModelConfig, name: str) -> Tensor:
    """The tensor that is `name` here, dequantised, with the rows of queries and keys in place."""
    theirs = names(config)[name]
    tensor = dequantised(file, file.places[theirs])
    return halves(tensor, config.head_dim) if _is_interleaved(file, theirs) else tensor


def _is_interleaved(file: GgufFile, name: str) -> bool:
    return architecture_of(file)[1].interleaved and name.endswith(("attn_q.weight", "attn_k.weight"))


def _as_stored(file: GgufFile, config: ModelConfig, name: str) -> Tensor | Blocks:
    """The tensor of llama.cpp's name: blocks of a form that kernels multiply as they are, others dequantised."""
    place = file.places[name]
    found = _blocks(file, place) if place.kind in FORMS else dequantised(file, place)
    file.forget(place)
    if not (finite(found) if isinstance(found, Blocks) else bool(found.float().isfinite().all())):
        check_finite({name: torch.tensor(float("nan"))}, file.path)
    if not _is_interleaved(file, name):
        return found
    if isinstance(found, Blocks):
        return replace(found, data=halves(found.data, config.head_dim))
    return halves(found, config.head_dim)


def _blocks(file: GgufFile, place: Place) -> Blocks:
    raw = np.frombuffer(file.data, np.uint8, place.size, place.start).reshape(place.shape[0], -1)
    return Blocks(cast(Form, place.kind), torch.from_numpy(raw.copy()), place.shape[1])


def halves(rows: Tensor, head_dim: int) -> Tensor:
    """rows [H * D, E] with rotated pairs side by side in a head: the same with a pair in the two halves of its head."""
    return rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def side_by_side(rows: Tensor, head_dim: int) -> Tensor:
    """The way back of `halves`."""
    return rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def dequantised(file: GgufFile, place: Place) -> Tensor:
    """The tensor at `place`: as stored where it is numbers one by one, in fp32 where it is blocks."""
    if place.kind in _PLAIN:
        form, meant = _PLAIN[place.kind]
        count = place.size // np.dtype(form).itemsize
        numbers = torch.from_numpy(np.frombuffer(file.data, form, count, place.start).copy())
        return (numbers if meant is None else numbers.view(meant)).view(place.shape)
    gguf = library()
    blocks = np.frombuffer(file.data, np.uint8, place.size, place.start).reshape(prod(place.shape[:-1]), -1)
    with np.errstate(all="ignore"):  # what is not finite is refused by name when all is read
        whole = gguf.dequantize(blocks, gguf.GGMLQuantizationType[place.kind])
    return torch.from_numpy(np.ascontiguousarray(whole, np.float32)).view(place.shape)
