"""Matrices with the same inputs are in memory once: one that a pass reads, of which the model has views."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import small
import torch
from safetensors.torch import load_file
from torch import Tensor

from trimode.engine.forward.memory import resident
from trimode.engine.forward.runner import Runner
from trimode.engine.models.model import Layer, Transformer
from trimode.engine.models.weight_files import SINGLE
from trimode.engine.models.weights import save_weights
from trimode.kernels import ops

CPU = torch.device("cpu")


def runner(model: Transformer) -> Runner:
    return Runner(model, *ops.kernels(CPU, torch.float32, "torch"))


def matrices(model: Transformer) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Of each layer: the matrices of QKV, and those of gate and up."""
    layers = [cast(Layer, layer) for layer in model.encoder.layers]
    return [
        (
            [part.weight for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)],
            [part.weight for part in (layer.mlp.gate_proj, layer.mlp.up_proj)],
        )
        for layer in layers
    ]


def test_the_models_own_are_views_of_what_a_pass_reads() -> None:
    model = small.model(3)
    before = {name: (weight, weight.clone()) for name, weight in model.named_parameters()}
    stack = runner(model).stack
    for block, (qkv, both) in zip(stack.blocks, matrices(model), strict=True):
        for fused, parts in ((block.qkv, qkv), (block.gate_up, both)):
            assert {part.untyped_storage().data_ptr() for part in parts} == {fused.untyped_storage().data_ptr()}
            assert fused.untyped_storage().nbytes() == sum(part.nbytes for part in parts)
            assert torch.equal(fused, torch.cat(parts))
    for name, weight in model.named_parameters():
        same, value = before[name]
        assert weight is same
        assert torch.equal(weight, value)


def test_a_second_engine_on_the_same_model_takes_no_more() -> None:
    model = small.model(3)
    first, second = runner(model), runner(model)
    places = [block.qkv.data_ptr() for block in first.stack.blocks]
    assert [block.qkv.data_ptr() for block in second.stack.blocks] == places
    assert resident(model, first) == resident(model, second) == sum(weight.nbytes for weight in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_that_has_moved_since_is_joined_anew(dtype: torch.dtype) -> None:
    model = small.model(3)
    runner(model)
    moved = model.to(dtype)
    again = runner(moved)
    for block, (qkv, both) in zip(again.stack.blocks, matrices(moved), strict=True):
        assert torch.equal(block.qkv, torch.cat(qkv))
        assert torch.equal(block.gate_up, torch.cat(both))
    assert resident(moved, again) == sum(weight.nbytes for weight in moved.parameters())


def test_neighbours_in_another_order_are_no_single_matrix() -> None:
    model = small.model(3)
    first = matrices(model)[0][0]
    swapped = [first[0], first[2], first[1]]
    for part, data in zip(swapped, torch.cat(swapped).split([len(part) for part in swapped]), strict=True):
        part.data = data
    assert torch.equal(runner(model).stack.blocks[0].qkv, torch.cat(first))


def test_a_checkpoint_written_afterwards_is_the_same(tmp_path: Path) -> None:
    model = small.model(3)
    save_weights(model, tmp_path / "before", torch.float32)
    runner(model)
    save_weights(model, tmp_path / "after", torch.float32)
    before, after = (load_file(tmp_path / name / SINGLE) for name in ("before", "after"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
