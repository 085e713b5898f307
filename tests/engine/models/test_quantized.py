"""Weights in eight and four bits: modes agree as on full weights, tokens are those of the quantised matrices, and
kernels that cannot take them say so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from devices import on_each_device

from trimode.engine.errors import CheckpointError, RequestError, WeightsReleased
from trimode.engine.models.model import Transformer
from trimode.engine.models.weights import save_weights
from trimode.engine.options import ArOptions, LinearSpecOptions, Options, QuadraticSpecOptions
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.token_engine import TokenEngine
from trimode.kernels import ops
from trimode.kernels.quantize import Precision, dequantize, rounded

OPTIONS: list[Options] = [ArOptions(), LinearSpecOptions(block_length=6), QuadraticSpecOptions(block_length=3)]
each_precision = pytest.mark.parametrize("precision", ops.PRECISIONS)


def engine(model: Transformer, **options: Any) -> TokenEngine:
    return TokenEngine(model, small.text, small.TEXT_VOCAB, kv_bytes=1 << 24, **options)


def request(seed: int, options: Options) -> DecodeRequest:
    sampling = Sampling(temperature=float(seed % 2), seed=seed)
    return DecodeRequest(prompt=small.prompt(seed, 4), options=options, sampling=sampling, max_tokens=24)


def by_hand(model: Transformer, precision: Precision, head: bool, in_blocks: bool) -> Transformer:
    """The model with every matrix that is quantised replaced by what its format makes of it."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            block = "_proj" in name and "lora" not in name
            if block or (head and name == "diffusion_head.weight"):
                weight.copy_(dequantize(rounded(weight, precision, in_blocks), weight.dtype))
    return model


@each_precision
@pytest.mark.parametrize("head", [False, True])
def test_exact_modes_agree(precision: Precision, head: bool) -> None:
    made = engine(small.model(7, rank=4), quantize=precision, quantize_head=head)
    accepted = 0
    for seed in range(6):
        alone = made.decode(request(seed, OPTIONS[0]))
        results = made.decode_many([request(seed, options) for options in OPTIONS])
        assert [result.token_ids for result in results] == [alone.token_ids] * len(OPTIONS)
        accepted += sum(result.stats.accepted for result in results)
    made.close()
    assert accepted > 0


@pytest.mark.parametrize(
    ("precision", "kernels"), [("int8", "native"), ("int4", "native"), *((each, "torch") for each in ops.PRECISIONS)]
)
@pytest.mark.parametrize("head", [False, True])
def test_tokens_are_those_of_the_rounded_matrices(precision: Precision, kernels: str, head: bool) -> None:
    """Adapters stay whole: a model rounded by hand, with its adapter as it was, decodes the same drafts."""
    mine = engine(small.model(7, rank=4), quantize=precision, quantize_head=head, kernels=kernels)
    theirs = engine(by_hand(small.model(7, rank=4), precision, head, kernels == "native"), kernels=kernels)
    for seed in range(3):
        asked = request(seed, OPTIONS[1])
        found, expected = mine.decode(asked), theirs.decode(asked)
        assert (found.token_ids, found.rounds) == (expected.token_ids, expected.rounds)
    mine.close()
    theirs.close()


def test_what_a_pass_reads_is_smaller() -> None:
    whole, some, all_ = (
        engine(small.model(1), kernels="torch", **options)
        for options in ({}, {"quantize": "int8"}, {"quantize": "int8", "quantize_head": True})
    )
    head = small.VOCAB * small.CONFIG.hidden_size
    assert some.runner.weight_bytes - all_.runner.weight_bytes == 4 * head - (head + 4 * small.VOCAB)
    assert all_.runner.weight_bytes < whole.runner.weight_bytes / 2
    for made in (whole, some, all_):
        made.close()


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_auto_takes_kernels_that_multiply_blocks(precision: Precision) -> None:
    made = engine(small.model(1), quantize=precision)
    assert (made.runner.kernels.name, made.runner.why) == ("native", "the fastest here")
    assert made.runner.forms == [{"int8": "Q8_0", "int4": "Q4_1"}[precision]]
    made.close()


def test_what_is_slower_than_whole_weights_is_said_to_be() -> None:
    slow = "slower than whole weights: every pass restores all of them from"
    for options, why in (
        ({"quantize": "fp8"}, f"native kernels do not take weights in fp8; {slow} fp8"),
        ({"quantize": "int4", "kernels": "torch"}, f"asked for; {slow} int4"),
    ):
        made = engine(small.model(1), **options)
        assert (made.runner.kernels.name, made.runner.why) == ("torch", why)
        made.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int5"}, r"quantize='int5': expected one of int8, int4, fp8, no, or None"),
        ({"quantize": "fp8", "kernels": "native"}, r"native kernels do not take .* in fp8; 'triton' and 'torch' do"),
        (
            {"quantize": "int8", "kernels": "native-bf16"},
            r"native-bf16 kernels do not .* int8; 'native' and 'torch' do",
        ),
        ({"quantize": "int4", "kernels": "triton"}, r"triton kernels take weights in int8 and fp8, not in int4"),
        ({"quantize": "no", "quantize_head": True}, r"say quantize= too"),
        (
            {"kernels": "native-bf16"},
            r"shape \[\d+, \d+\] holds others; 'native' keeps|which this processor has not; 'native'",
        ),
        ({"quantize_head": True}, r"say quantize= too"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        engine(small.model(1), **options)


def test_weights_that_cannot_be_rounded_are_refused() -> None:
    model = small.model(1)
    model.encoder.layers[0].get_submodule("mlp.down_proj").get_parameter("weight")[0, 0] = float("inf")
    with pytest.raises(CheckpointError, match=r"quantize='fp8': a matrix of shape \[24, 40\] has weights that are not"):
        engine(model, quantize="fp8")


@each_precision
@pytest.mark.parametrize("head", [False, True])
def test_the_whole_matrices_are_let_go(precision: Precision, head: bool) -> None:
    model = small.model(7, rank=4)
    whole = sum(weight.nbytes for weight in model.parameters())
    matrices = {name for name, _ in model.named_parameters() if name.startswith("encoder.") and "_proj" in name}
    blocks = sum(w.nbytes for name, w in model.named_parameters() if name in matrices)
    made = engine(model, quantize=precision, quantize_head=head)
    gone = {name for name, weight in model.named_parameters() if weight.is_meta}
    assert gone == matrices | ({"diffusion_head.weight"} if head else set())
    released = blocks + head * model.diffusion_head.weight.nelement() * 4
    blocks_now = made.runner.stack.blocks
    packed = [matrix for block in blocks_now if block.adapter for matrix in block.adapter.matrices]
    own = sum(m.nbytes for m in packed) if precision != "fp8" else sum(m.nbytes for m in packed[1::2])
    kept = made.runner.weight_bytes
    if precision == "fp8" and not head:
        kept -= model.diffusion_head.weight.nbytes  # the same tensor, in torch's kernels
    assert made.memory.weights == whole - released + kept + own
    made.close()


def test_a_head_that_is_the_embedding_stays() -> None:
    model = small.model(7, replace(small.CONFIG, tie_word_embeddings=True))
    made = engine(model, quantize="int8", quantize_head=True)
    assert not model.encoder.embed_tokens.weight.is_meta
    assert made.decode(request(1, ArOptions())).token_ids
    made.close()


def test_what_needs_the_whole_matrices_says_why_it_cannot_be(tmp_path: Path) -> None:
    model = small.model(7)
    made = engine(model, quantize="int8", quantize_head=True)
    ids = torch.tensor([1, 2])
    for what, use in (
        ("a pass of the model itself", lambda: model(ids, ids, lambda *_: ids)),
        ("writing a checkpoint", lambda: save_weights(model, tmp_path)),
        ("an engine", lambda: engine(model)),
    ):
        with pytest.raises(
            WeightsReleased, match=f"{what} needs the whole weights, which .* rounded them to int8.head"
        ):
            use()
    assert not list(tmp_path.iterdir())
    made.close()


@on_each_device
def test_the_triton_kernels_take_them_too(device: str) -> None:
    config = replace(small.CONFIG, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    made = engine(
        small.model(5, config, rank=4).to(device, torch.bfloat16), kernels="triton", quantize="int8", quantize_head=True
    )
    short = [replace(request(1, options), max_tokens=3) for options in OPTIONS]
    found = [made.decode(each).token_ids for each in short]
    made.close()
    assert len(found[0]) == 3
    assert found == [found[0]] * len(OPTIONS)
