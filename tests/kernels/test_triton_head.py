"""The head epilogue in Triton against the torch reference: noise bit for bit, tokens one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from devices import DTYPES, INTERPRETED, draw, gaps, on_each_device, poisoned
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimode.kernels.checks import TensorRefused
from trimode.kernels.gpu import head_epilogue as triton_head
from trimode.kernels.gpu import noise as triton_noise
from trimode.kernels.gpu.head_epilogue import RowSampling
from trimode.kernels.reference import noise as noise_ops
from trimode.kernels.reference import torch_ops

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
VOCAB = triton_head.TILE + 37
POSITIONS = [0, 5, 2**32 - 1, 2**32 + 5, 2**40, 3]


@pytest.fixture
def short_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tiles with little arithmetic."""
    monkeypatch.setattr(triton_head, "TILE", 128)


def draws(
    device: str, temperature: list[float], top_k: list[int] | None = None, top_p: list[float] | None = None
) -> RowSampling:
    rows = len(temperature)
    return RowSampling(
        torch.arange(rows, device=device) * 2**40 - 2,
        torch.tensor(POSITIONS[:rows], dtype=torch.int64, device=device),
        torch.tensor(temperature, dtype=torch.float32, device=device),
        None if top_k is None else torch.tensor(top_k, dtype=torch.int32, device=device),
        None if top_p is None else torch.tensor(top_p, dtype=torch.float32, device=device),
    )


def masks(rows: int, vocab: int, device: str) -> tuple[Tensor, Tensor]:
    """Some banned tokens, and a grammar's bit masks."""
    bits = torch.Generator().manual_seed(5)
    words = torch.randint(-(2**31), 2**31, (rows, -(-vocab // 32)), generator=bits)
    return (draw(vocab, seed=1) > 1).to(device), words.to(torch.int32).to(device)


def agree(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-7)


@on_each_device
@pytest.mark.parametrize("seed", [0, 2**63 + 5, 2**64 - 1])
def test_noise_has_the_bits_of_the_reference(device: str, seed: int) -> None:
    positions = torch.tensor(POSITIONS)
    with poisoned():
        found = triton_noise.gumbel(seed, positions.to(device), 1030)
    assert torch.equal(found.cpu(), torch_ops.gumbel(seed, positions, 1030))


def test_the_logarithm_is_right_for_every_uniform_number() -> None:
    uniform = (torch.arange(2**23).float() + 0.5) * 2.0**-23
    for x in (uniform, -noise_ops.log(uniform)):
        found, exact = noise_ops.log(x), x.double().log()
        last = found.abs().nextafter(torch.tensor(float("inf"))) - found.abs()
        assert float(((found - exact).abs() / last).max()) < 1


@on_each_device
@each_dtype
@pytest.mark.parametrize("masked", [True, False])
def test_tokens_are_those_of_the_reference(device: str, dtype: torch.dtype, masked: bool) -> None:
    logits = draw(6, VOCAB, dtype=dtype, device=device) * 3
    banned, allowed = masks(6, VOCAB, device)
    rule = draws(device, [0, 0.3, 1, 1, 2.5, 1])
    with poisoned():
        found = triton_head.sample(gaps(logits), banned, gaps_of(allowed) if masked else None, rule)
    agree(found, triton_head.sample_in_torch(logits, banned, allowed if masked else None, rule))


def gaps_of(words: Tensor) -> Tensor:
    """Mask rows that lie apart."""
    return torch.cat((words, ~words), dim=1)[:, : words.shape[1]]


@pytest.mark.usefixtures("short_tiles")
@on_each_device
@each_dtype
@pytest.mark.parametrize("masked", [True, False])
def test_filters_are_those_of_the_reference(device: str, dtype: torch.dtype, masked: bool) -> None:
    logits = draw(6, 217, dtype=dtype, device=device) * 2
    banned, allowed = masks(6, 217, device)
    for top_k, top_p in (
        ([1, 2, 5, 50, 217, 1000], [1.0] * 6),
        ([0] * 6, [0.95, 0.5, 1e-6, 0.9, 0.3, 1.0]),
        ([3, 50, 9, 0, 1, 40], [0.7, 0.9, 0.5, 1.0, 0.2, 0.99]),
    ):
        rule = draws(device, [0, 0.3, 1, 2.5, 1, 30], top_k, top_p)
        found = triton_head.sample(logits, banned, allowed if masked else None, rule)
        agree(found, triton_head.sample_in_torch(logits, banned, allowed if masked else None, rule))


@pytest.mark.usefixtures("short_tiles")
@on_each_device
def test_equal_scores_are_ranked_by_token(device: str) -> None:
    """Ties within top_k all stay; top_p parts them in the order of their tokens; zeros of both signs are ties."""
    logits = torch.tensor([0.0, -0.0, 1.0, 1.0, -0.0] * 20, device=device)[None].repeat(6, 1)
    banned = torch.zeros(100, dtype=torch.bool, device=device)
    rule = draws(device, [1.0] * 6, [1, 41, 0, 0, 41, 60], [1.0, 1.0, 0.1, 0.8, 0.9, 0.7])
    agree(triton_head.sample(logits, banned, None, rule), triton_head.sample_in_torch(logits, banned, None, rule))
    greedy = draws(device, [0.0] * 6)
    assert triton_head.sample(logits, banned, None, greedy)[0].tolist() == [2] * 6


@pytest.mark.usefixtures("short_tiles")
@pytest.mark.parametrize("device", ["cpu"] if INTERPRETED else ["cuda"])
@given(
    seed=st.integers(0, 10_000),
    vocab=st.integers(2, 200),
    spread=st.sampled_from([0.1, 3.0]),
    temperature=st.sampled_from([0.0, 0.3, 2.5]),
    top_k=st.sampled_from([0, 1, 2, 5, 1000]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 1e-6]),
)
@settings(deadline=None, derandomize=True, max_examples=12 if INTERPRETED else 200)
def test_any_row_is_picked_as_by_the_reference(
    device: str, seed: int, vocab: int, spread: float, temperature: float, top_k: int, top_p: float
) -> None:
    logits = draw(2, vocab, seed=seed, device=device) * spread
    banned = torch.zeros(vocab, dtype=torch.bool, device=device)
    rule = draws(device, [temperature] * 2, [top_k] * 2, [top_p] * 2)
    agree(triton_head.sample(logits, banned, None, rule), triton_head.sample_in_torch(logits, banned, None, rule))


@pytest.mark.usefixtures("short_tiles")
@on_each_device
@each_dtype
def test_a_row_is_picked_the_same_alone(device: str, dtype: torch.dtype) -> None:
    logits = draw(6, 217, dtype=dtype, device=device) * 2
    banned, allowed = masks(6, 217, device)
    rule = draws(device, [0, 0.3, 1, 2.5, 1, 1], [0, 3, 0, 50, 9, 0], [1.0, 0.7, 0.9, 1.0, 0.2, 1.0])
    tokens, confidence = triton_head.sample(logits, banned, allowed, rule)
    assert rule.top_k is not None
    assert rule.top_p is not None
    for row in range(6):
        one = slice(row, row + 1)
        single = RowSampling(
            rule.seed[one], rule.position[one], rule.temperature[one], rule.top_k[one], rule.top_p[one]
        )
        alone = triton_head.sample(logits[one], banned, allowed[one], single)
        assert torch.equal(alone[0], tokens[one])
        assert torch.equal(alone[1], confidence[one])


@on_each_device
def test_columns_behind_the_vocabulary_are_not_read(device: str) -> None:
    padded = torch.full((2, 64), float("inf"), device=device)
    padded[:, :50] = draw(2, 50, device=device)
    banned = torch.zeros(50, dtype=torch.bool, device=device)
    rule = draws(device, [0, 1.0], [0, 7], [1.0, 0.9])
    found = triton_head.sample(padded[:, :50], banned, None, rule)
    agree(found, triton_head.sample_in_torch(padded[:, :50].contiguous(), banned, None, rule))


@on_each_device
def test_no_rows_give_no_tokens(device: str) -> None:
    banned = torch.zeros(9, dtype=torch.bool, device=device)
    tokens, confidence = triton_head.sample(draw(0, 9, device=device), banned, None, draws(device, []))
    assert tokens.shape == confidence.shape == (0,)


def refused(logits: Tensor, banned: Tensor, allowed: Tensor | None, rule: RowSampling, why: str) -> None:
    with pytest.raises(TensorRefused, match=why):
        triton_head.sample(logits, banned, allowed, rule)


def test_what_does_not_fit_is_refused() -> None:
    logits, (banned, allowed), rule = draw(2, 70), masks(2, 70, "cpu"), draws("cpu", [0, 1], [0, 1], [1, 1])
    refused(logits.half(), banned, allowed, rule, "logits is float16; this op takes float32 or bfloat16")
    refused(draw(70, 2).T, banned, allowed, rule, "logits has strides")
    refused(logits, banned[1:], allowed, rule, r"banned has shape \[69\]; this op takes \[70\]")
    refused(logits, banned, allowed[:, 1:], rule, r"allowed has shape \[2, 2\]; this op takes \[2, 3\]")
    refused(logits, banned, allowed.long(), rule, "allowed is int64; this op takes int32")
    refused(logits, banned, allowed, replace(rule, top_p=None), "one filter without the other")
    refused(logits, banned, allowed, replace(rule, seed=rule.seed[:1]), "seed has shape")
    refused(logits, banned, allowed, replace(rule, temperature=rule.temperature.double()), "temperature is float64")
    refused(logits, banned, allowed, replace(rule, position=rule.position.to("meta")), "position is on meta")
    with pytest.raises(TensorRefused, match="positions is int32"):
        triton_noise.gumbel(0, torch.zeros(1, dtype=torch.int32), 4)


@pytest.mark.usefixtures("short_tiles")
@on_each_device
@each_dtype
@pytest.mark.parametrize("k", [1, 3, 8])
def test_runners_up_are_those_of_a_sort(device: str, dtype: torch.dtype, k: int) -> None:
    """With ties, on masks that leave one tile bare; tokens are what they are without runners-up."""
    logits = (draw(6, 217, dtype=dtype, device=device) * 2).round()
    banned, allowed = masks(6, 217, device)
    allowed[5, 1:] = 0
    rule = draws(device, [0, 0.3, 1, 2.5, 1, 0])
    for mask in (allowed, None):
        best = triton_head.RunnersUp(
            torch.empty(6, k, dtype=torch.int64, device=device), torch.empty(6, k, device=device)
        )
        with poisoned():
            found = triton_head.sample(gaps(logits), banned, mask, rule, runners_up=best)
        agree(found, triton_head.sample_in_torch(logits, banned, mask, rule))
        expected = triton_head.runners_up_in_torch(logits, banned, mask, k)
        assert torch.equal(best.ids, expected.ids)
        assert torch.equal(best.logits, expected.logits)
        if mask is None:
            assert torch.equal(best.ids[0, 0], found[0][0]), "the best of a greedy row is its token"


@pytest.mark.usefixtures("short_tiles")
@on_each_device
def test_fewer_tokens_than_runners_up_leave_empty_places(device: str) -> None:
    logits, allowed = draw(2, 70, device=device), torch.zeros(2, 3, dtype=torch.int32, device=device)
    banned = torch.zeros(70, dtype=torch.bool, device=device)
    allowed[:, 2] = 0b101
    banned[66] = True
    best = triton_head.RunnersUp(torch.empty(2, 3, dtype=torch.int64, device=device), torch.empty(2, 3, device=device))
    triton_head.sample(logits, banned, allowed, draws(device, [0, 1]), runners_up=best)
    expected = triton_head.runners_up_in_torch(logits, banned, allowed, 3)
    assert best.ids.tolist() == expected.ids.tolist() == [[64, -1, -1]] * 2
    assert torch.equal(best.logits, expected.logits)
    small = triton_head.runners_up_in_torch(logits[:, :2], banned[:2], None, 4)
    assert small.ids[:, 2:].tolist() == [[-1, -1]] * 2


@pytest.mark.usefixtures("short_tiles")
@on_each_device
def test_rows_may_share_masks_or_have_none(device: str) -> None:
    logits = draw(6, 217, device=device) * 2
    banned, allowed = masks(2, 217, device)
    which = torch.tensor([1, -1, 0, 0, -1, 1], dtype=torch.int32, device=device)
    for filters in ((None, None), ([0, 3, 0, 50, 9, 0], [1.0, 0.7, 0.9, 1.0, 0.2, 1.0])):
        rule = replace(draws(device, [0, 0.3, 1, 2.5, 1, 1], *filters), mask=which)
        agree(
            triton_head.sample(logits, banned, allowed, rule),
            triton_head.sample_in_torch(logits, banned, allowed, rule),
        )


@on_each_device
def test_a_row_of_nan_gives_a_token_and_reads_nothing_beyond_it(device: str) -> None:
    logits = torch.full((2, 40), float("nan"), device=device)
    logits[1] = draw(40, device=device)
    banned = torch.zeros(40, dtype=torch.bool, device=device)
    tokens, _ = triton_head.sample(logits, banned, None, draws(device, [0.0, 0.0], [3, 3], [0.5, 0.5]))
    assert 0 <= int(tokens[0]) < 40
    assert int(tokens[1]) == int(logits[1].argmax())
