"""The torch reference of every op: against published vectors, against torch's own, against plain loops, and row by row.

Row invariance is compared bit for bit: a row alone, among others, and in other company must be the same row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimode.kernels import ops
from trimode.kernels.native.native_ops import Native
from trimode.kernels.reference import noise as noise_ops
from trimode.kernels.reference import torch_ops

QUICK = settings(deadline=None, derandomize=True, max_examples=40)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[torch_ops, Native.load()], ids=["torch", "native"], scope="module")
def kernels(request: pytest.FixtureRequest) -> ops.Kernels:
    """Each implementation; the native one needs a C++ compiler here."""
    found: ops.Kernels = request.param
    return found


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


# Random123 1.14, kat_vectors, philox4x32 10
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_vectors(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    a, b, c, d = (torch.tensor([word]) for word in counter)
    assert tuple(int(word) for word in noise_ops.philox((a, b, c, d), key)) == expected


@given(
    seed=st.integers(0, 2**64 - 1),
    positions=st.lists(st.integers(0, 2**40), min_size=1, max_size=5),
    vocab=st.integers(1, 33),
)
@QUICK
def test_gumbel_is_a_function_of_seed_position_and_token(seed: int, positions: list[int], vocab: int) -> None:
    together = ops.gumbel(seed, torch.tensor(positions), vocab)
    assert together.shape == (len(positions), vocab)
    assert together.isfinite().all()
    for row, position in zip(together, positions, strict=True):
        wider = ops.gumbel(seed, torch.tensor([position]), vocab + 7)[0]
        assert torch.equal(row, wider[:vocab])


@given(
    seed=st.integers(0, 2**64 - 1),
    positions=st.lists(st.integers(0, 2**40), min_size=1, max_size=5),
    vocab=st.integers(1, 5000),
)
@QUICK
def test_native_noise_has_the_bits_of_the_reference(seed: int, positions: list[int], vocab: int) -> None:
    found = Native.load().gumbel(seed, torch.tensor(positions), vocab)
    assert torch.equal(found.view(torch.int32), ops.gumbel(seed, torch.tensor(positions), vocab).view(torch.int32))


def test_gumbel_changes_with_seed_position_and_token() -> None:
    base = ops.gumbel(1, torch.tensor([5]), 64)[0]
    assert len(set(base.tolist())) == 64
    assert not torch.equal(base, ops.gumbel(1, torch.tensor([6]), 64)[0])
    assert not torch.equal(base, ops.gumbel(1, torch.tensor([5 + 2**32]), 64)[0])
    assert not torch.equal(base, ops.gumbel(2, torch.tensor([5]), 64)[0])
    assert not torch.equal(base, ops.gumbel(1 + 2**32, torch.tensor([5]), 64)[0])


def test_gumbel_has_the_moments_of_the_standard_gumbel() -> None:
    noise = ops.gumbel(7, torch.arange(200), 1000).double()
    assert abs(float(noise.mean()) - float(np.euler_gamma)) < 0.01
    assert abs(float(noise.var()) - math.pi**2 / 6) < 0.02
    assert abs(float((noise < 0).double().mean()) - math.exp(-1)) < 0.005


@pytest.mark.parametrize(
    ("inputs", "outputs"), [(32, 40), (48, 129), (4, 1), (64, 5), (384, 1000), (100, 7), (256, 1024)]
)
@pytest.mark.usefixtures("threads")
def test_linear_rows_do_not_depend_on_their_number(kernels: ops.Kernels, inputs: int, outputs: int) -> None:
    x, weight, base = draw(67, inputs), draw(outputs, inputs, seed=1), draw(67, outputs, seed=2)
    matrix = kernels.prepare(weight)
    whole = kernels.linear(x, matrix)
    torch.testing.assert_close(whole, x @ weight.T, rtol=1e-4, atol=1e-4)
    assert torch.equal(kernels.linear(x, matrix, base.clone()), base + whole)
    for rows in (1, 2, 3, 4, 5, 7, 8, 13, 16, 31, 32, 33, 64):
        assert torch.equal(kernels.linear(x[:rows], matrix), whole[:rows]), rows
        assert torch.equal(kernels.linear(x[67 - rows :], matrix), whole[67 - rows :]), rows


@pytest.mark.parametrize("inputs", [1, 2, 95, 96])
@pytest.mark.usefixtures("threads")
def test_weights_that_are_bf16_numbers_are_kept_so_and_give_the_same_bits(inputs: int) -> None:
    native = Native.load()
    x, rounded = draw(41, inputs), draw(130, inputs, seed=1).bfloat16().float()
    short, exact = native.prepare(rounded), native.prepare(torch.cat([rounded, torch.full((1, inputs), 1 / 3)]))
    assert (exact.form, short.form) == ("F32", "BF16")
    whole = native.linear(x, short)
    assert torch.equal(whole, native.linear(x, exact)[:, :130])
    torch.testing.assert_close(whole, x @ rounded.T, rtol=1e-4, atol=1e-4)
    for rows in range(1, 41):
        assert torch.equal(native.linear(x[:rows], short), whole[:rows])
        assert torch.equal(native.linear(x[:rows], exact)[:, :130], whole[:rows])


def test_linear_gives_gradients() -> None:
    x, weight = draw(3, 8).requires_grad_(), draw(5, 8, seed=1)
    (found,) = torch.autograd.grad(ops.linear(x, weight).sum(), [x])
    torch.testing.assert_close(found, weight.sum(0).expand(3, 8))


@pytest.mark.parametrize("size", [1, 7, 16, 65, 384, 1024, 5120])
@pytest.mark.usefixtures("threads")
def test_norm_and_activation_rows_do_not_depend_on_their_number(kernels: ops.Kernels, size: int) -> None:
    x, both, weight = draw(37, size), draw(37, 2 * size, seed=1) * 8, draw(size, seed=2)
    normed, mixed = kernels.rms_norm(x, weight, 1e-5), kernels.swiglu(both)
    torch.testing.assert_close(normed, F.rms_norm(x, (size,), weight, 1e-5))
    torch.testing.assert_close(mixed, F.silu(both[:, :size]) * both[:, size:], rtol=2e-6, atol=2e-6)
    for rows in (1, 2, 3, 5, 8, 33, 36):
        assert torch.equal(kernels.rms_norm(x[:rows], weight, 1e-5), normed[:rows])
        assert torch.equal(kernels.swiglu(both[:rows]), mixed[:rows])


@pytest.mark.parametrize(("queries", "groups", "dim"), [(4, 2, 8), (3, 1, 6), (8, 2, 32)])
@pytest.mark.parametrize("scaled", [True, False])
def test_heads_are_turned_scaled_and_kept(
    kernels: ops.Kernels, queries: int, groups: int, dim: int, scaled: bool
) -> None:
    x, angle = draw(5, queries + 2 * groups, dim), draw(5, dim // 2, seed=1)
    both = torch.cat((angle, angle), dim=-1)
    cos, sin, scale = both.cos(), both.sin(), draw(5, seed=3) if scaled else None
    turned = x.clone()
    kernels.rotate_heads(turned, cos, sin, queries + groups, queries, scale)
    expected = ops.rotate(x[:, : queries + groups], cos[:, None], sin[:, None])
    if scale is not None:
        expected = torch.cat((expected[:, :queries] * scale[:, None, None], expected[:, queries:]), dim=1)
    torch.testing.assert_close(turned[:, : queries + groups], expected)
    assert torch.equal(turned[:, queries + groups :], x[:, queries + groups :])
    keys, values = torch.zeros(3, groups, dim, ops.PAGE), torch.zeros(3, groups, ops.PAGE, dim)
    slot = torch.tensor([2 * ops.PAGE + 5, -1, 0, ops.PAGE - 1, ops.PAGE])
    empty = torch.zeros(5, dtype=torch.int64)
    kernels.keep(turned, queries, keys, values, ops.Layout(empty[None], empty, empty, empty, empty, slot))
    for row, at in enumerate(slot.tolist()):
        if at >= 0:
            page, offset = divmod(at, ops.PAGE)
            assert torch.equal(keys[page, :, :, offset], turned[row, queries : queries + groups])
            assert torch.equal(values[page, :, offset], turned[row, queries + groups :])
    assert int((keys != 0).sum()) == 4 * groups * dim


@pytest.mark.parametrize("value", [-200.0, -88.0, -1e-30, 0.0, 1e-30, 88.0, 200.0])
def test_silu_is_finite_and_right_at_the_ends(value: float) -> None:
    gate, up = torch.full((1, 4), value), torch.full((1, 4), 2.0)
    torch.testing.assert_close(ops.silu_mul(gate, up), F.silu(gate) * up)
    steep = gate.clone().requires_grad_()
    (slope,) = torch.autograd.grad(ops.silu_mul(steep, up).sum(), [steep])
    assert slope.isfinite().all()


def test_silu_rounds_half_precision_once() -> None:
    gate, up = (draw(8, 33, seed=seed).bfloat16() for seed in (0, 1))
    torch.testing.assert_close(ops.silu_mul(gate, up), F.silu(gate) * up, rtol=0.01, atol=1e-6)


def test_rotate_turns_each_pair_by_its_angle() -> None:
    x, angle = draw(5, 2, 6), draw(5, 1, 3, seed=1)
    both = torch.cat((angle, angle), dim=-1)
    turned = torch.view_as_complex(torch.stack(x.chunk(2, dim=-1), dim=-1)) * torch.exp(1j * angle)
    torch.testing.assert_close(ops.rotate(x, both.cos(), both.sin()), torch.cat((turned.real, turned.imag), dim=-1))


def sdpa(q: Tensor, keys: Tensor, values: Tensor, start: int, causal: bool) -> Tensor:
    """torch's attention with an explicit mask over the visible keys."""
    end = start + q.shape[0]
    row, key = torch.arange(start, end)[:, None], torch.arange(end)
    mask = key <= row if causal else torch.ones(q.shape[0], end, dtype=torch.bool)
    groups = q.shape[1] // keys.shape[0]
    k, v = (part[:, :end].repeat_interleave(groups, 0) for part in (keys, values))
    return F.scaled_dot_product_attention(q.transpose(0, 1), k, v, attn_mask=mask).transpose(0, 1)


def paged(keys: Tensor, values: Tensor, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """[K, capacity, D] cut into pages that lie in another order, and the table [tiles] that finds them."""
    order = torch.randperm(keys.shape[1] // ops.PAGE, generator=torch.Generator().manual_seed(seed))
    pages = [part.unflatten(1, (-1, ops.PAGE)).transpose(0, 1)[order] for part in (keys, values)]
    return pages[0].transpose(-1, -2).contiguous(), pages[1].contiguous(), order.argsort()


def attend(kernels: ops.Kernels, q: Tensor, keys: Tensor, values: Tensor, start: int, causal: bool) -> Tensor:
    """One request's rows [T, H, D] at `start`: causal over the pages, or a branch that is beside them."""
    rows, heads, _ = q.shape
    cached = paged(keys, values)
    own = [part[:, start : start + rows].transpose(0, 1) for part in (keys, values)]
    layout = ops.Layout(
        tables=cached[2][None],
        request=torch.zeros(rows, dtype=torch.int64),
        seen=torch.arange(start + 1, start + rows + 1) if causal else torch.full((rows,), start),
        own_first=torch.zeros(rows, dtype=torch.int64),
        own_count=torch.full((rows,), 0 if causal else rows),
        slot=torch.full((rows,), -1),
    )
    return kernels.attention(torch.cat((q, *own), dim=1).contiguous(), heads, cached[0], cached[1], layout)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("group", [1, 2, 4, 5])
@pytest.mark.parametrize(
    ("start", "rows"),
    [(0, 1), (0, 64), (0, 65), (1, 63), (63, 1), (64, 1), (60, 9), (127, 2), (128, 32), (191, 1), (0, 300), (40, 257)],
)
def test_attention_equals_torch(kernels: ops.Kernels, start: int, rows: int, group: int, causal: bool) -> None:
    heads, dim = 2 * group, 12
    q, capacity = draw(rows, heads, dim), 384
    keys, values = draw(2, capacity, dim, seed=1), draw(2, capacity, dim, seed=2)
    found = attend(kernels, q, keys, values, start, causal)
    torch.testing.assert_close(found, sdpa(q, keys, values, start, causal), rtol=1e-5, atol=1e-5)


@given(
    start=st.integers(0, 200),
    rows=st.integers(1, 40),
    group=st.sampled_from([1, 2, 3, 4, 7]),
    dim=st.sampled_from([8, 16, 24, 32, 64, 128]),
    data=st.data(),
)
@QUICK
def test_a_causal_row_does_not_depend_on_its_company(
    kernels: ops.Kernels, start: int, rows: int, group: int, dim: int, data: st.DataObject
) -> None:
    heads = 2 * group
    q = draw(rows, heads, dim, seed=start)
    keys, values = draw(2, 256, dim, seed=1), draw(2, 256, dim, seed=2)
    whole = attend(kernels, q, keys, values, start, causal=True)
    first = data.draw(st.integers(0, rows - 1))
    last = data.draw(st.integers(first + 1, rows))
    assert torch.equal(attend(kernels, q[first:last], keys, values, start + first, causal=True), whole[first:last])
    longer = [F.pad(part, (0, 0, 0, 128), value=3.0) for part in (keys, values)]
    assert torch.equal(attend(kernels, q, longer[0], longer[1], start, causal=True), whole)


@pytest.mark.usefixtures("threads")
def test_causal_rows_agree_in_long_passes(kernels: ops.Kernels) -> None:
    q = draw(517, 4, 16)
    keys, values = draw(2, 640, 16, seed=1), draw(2, 640, 16, seed=2)
    whole = attend(kernels, q, keys, values, 3, causal=True)
    for row in (0, 1, 63, 255, 256, 257, 511, 512, 516):
        assert torch.equal(attend(kernels, q[row : row + 1], keys, values, 3 + row, causal=True), whole[row : row + 1])


@given(
    lengths=st.lists(st.lists(st.integers(1, 70), min_size=1, max_size=4), min_size=1, max_size=4),
    trunks=st.lists(st.integers(0, 9), min_size=4, max_size=4),
    causal=st.booleans(),
    seed=st.integers(0, 99),
)
@QUICK
def test_a_row_of_a_mixed_pass_does_not_depend_on_its_company(
    kernels: ops.Kernels, lengths: list[list[int]], trunks: list[int], causal: bool, seed: int
) -> None:
    """Requests with a trunk and branches each, in one pass, and each part in a pass of its own."""
    heads, dim, starts = 6, 8, torch.randint(0, 240, (4,), generator=torch.Generator().manual_seed(seed)).tolist()
    pages = paged(draw(2, 256, dim, seed=1), draw(2, 256, dim, seed=2))
    fields: list[list[int]] = [[], [], [], []]  # request, seen, own_first, own_count
    parts: list[tuple[int, int]] = []
    for request, branches in enumerate(lengths):
        start, trunk, first = starts[request], trunks[request], len(fields[0])
        seen = [*range(start + 1, start + trunk + 1)]
        for column, more in zip(fields, ([request] * trunk, seen, [0] * trunk, [0] * trunk), strict=True):
            column += more
        parts += [(first, first + trunk)] if trunk else []
        for count in branches:
            first = len(fields[0])
            own = [*range(1, count + 1)] if causal else [count] * count
            for column, more in zip(fields, ([request] * count, [start] * count, [first] * count, own), strict=True):
                column += more
            parts.append((first, first + count))
    rows = len(fields[0])
    x, columns = draw(rows, heads + 4, dim, seed=seed), [torch.tensor(column) for column in fields]
    tables = pages[2].expand(len(lengths), -1).contiguous()

    def run(a: int, b: int) -> Tensor:
        request, seen, own_first, own_count = (column[a:b].contiguous() for column in columns)
        layout = ops.Layout(tables, request, seen, (own_first - a).clamp_min(0), own_count, torch.full((b - a,), -1))
        return kernels.attention(x[a:b].contiguous(), heads, pages[0], pages[1], layout)

    whole = run(0, rows)
    assert whole.isfinite().all()
    for a, b in parts:
        assert torch.equal(run(a, b), whole[a:b])


def test_attention_ignores_what_lies_behind_the_visible_keys(kernels: ops.Kernels) -> None:
    q, keys, values = draw(5, 4, 8), draw(2, 128, 8, seed=1), draw(2, 128, 8, seed=2)
    for causal in (True, False):
        clean = attend(kernels, q, keys, values, 30, causal)
        dirty_keys, dirty_values = keys.clone(), values.clone()
        dirty_keys[:, 35:], dirty_values[:, 35:] = 1e4, -1e4
        assert torch.equal(attend(kernels, q, dirty_keys, dirty_values, 30, causal), clean)


@given(words=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=4), cut=st.integers(0, 31))
@QUICK
def test_unpack_mask_reads_bit_by_bit(words: list[int], cut: int) -> None:
    size = 32 * len(words) - cut
    bits = [bool(words[token // 32] >> (token % 32) & 1) for token in range(size)]
    rows = torch.tensor([words, [~word for word in words]], dtype=torch.int32)
    assert torch_ops.unpack_mask(rows, size).tolist() == [bits, [not bit for bit in bits]]


def pack(allowed: Tensor) -> Tensor:
    """[R, V] bool -> [R, ceil(V / 32)] int32, bit by bit."""
    rows = []
    for row in allowed.tolist():
        words = [0] * -(-len(row) // 32)
        for token, ok in enumerate(row):
            words[token // 32] |= int(ok) << (token % 32)
        rows.append(np.array(words, dtype=np.uint32).view(np.int32))
    return torch.from_numpy(np.stack(rows))


def naive_pick(
    logits: list[float],
    banned: list[bool],
    allowed: list[bool],
    noise: list[float] | None,
    temperature: float,
    top_k: int,
    top_p: float,
) -> tuple[int, float]:
    """One row of `sample_rows` in plain Python."""
    tokens = [t for t in range(len(logits)) if allowed[t] and not banned[t]]
    if noise is None:
        chosen = max(tokens, key=lambda t: logits[t])
    else:
        scores = {t: logits[t] / temperature for t in tokens}
        ranked = sorted(tokens, key=lambda t: -scores[t])
        kept = ranked[:top_k] if top_k else ranked
        total = sum(math.exp(scores[t] - scores[ranked[0]]) for t in kept)
        nucleus: list[int] = []
        mass = 0.0
        for token in kept:
            if mass >= top_p:
                break
            nucleus.append(token)
            mass += math.exp(scores[token] - scores[ranked[0]]) / total
        chosen = max(nucleus, key=lambda t: scores[t] + noise[t])
    among = sum(math.exp(logits[t]) for t in range(len(logits)) if allowed[t])
    return chosen, math.exp(logits[chosen]) / among


@given(
    seed=st.integers(0, 10_000),
    vocab=st.integers(3, 70),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 2, 5, 1000]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 1e-6]),
    constrained=st.booleans(),
)
@settings(QUICK, max_examples=150)
def test_sample_rows_equals_a_plain_loop(
    kernels: Any, seed: int, vocab: int, temperature: float, top_k: int, top_p: float, constrained: bool
) -> None:
    logits = draw(4, vocab, seed=seed) * 3
    banned = draw(vocab, seed=seed + 1) > 1.2
    banned[0] = False
    allowed = draw(4, vocab, seed=seed + 2) > 0
    allowed[:, 0] = True
    noise = ops.gumbel(seed, torch.arange(4), vocab) if temperature else None
    mask = pack(allowed) if constrained else None
    tokens, confidence = kernels.sample_rows(logits, banned, mask, noise, temperature, top_k, top_p)
    for row in range(4):
        expected, probability = naive_pick(
            logits[row].tolist(),
            banned.tolist(),
            allowed[row].tolist() if constrained else [True] * vocab,
            None if noise is None else noise[row].tolist(),
            temperature,
            top_k,
            top_p,
        )
        assert int(tokens[row]) == expected
        assert float(confidence[row]) == pytest.approx(probability, rel=1e-4)


def test_sample_rows_rows_do_not_depend_on_their_number(kernels: Any) -> None:
    logits, noise = draw(33, 1000) * 4, ops.gumbel(3, torch.arange(33), 1000)
    banned = torch.zeros(1000, dtype=torch.bool)
    tokens, confidence = kernels.sample_rows(logits, banned, None, noise, 0.8, 50, 0.9)
    for row in range(33):
        alone = kernels.sample_rows(logits[row : row + 1], banned, None, noise[row : row + 1], 0.8, 50, 0.9)
        assert torch.equal(alone[0], tokens[row : row + 1])
        assert torch.equal(alone[1], confidence[row : row + 1])


def test_confidence_counts_banned_tokens_but_not_refused_ones(kernels: Any) -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    banned = torch.tensor([False, True, False, False])
    mask = pack(torch.tensor([[True, True, False, False]]))
    token, confidence = kernels.sample_rows(logits, banned, mask, None, 0.0, 0, 1.0)
    assert int(token) == 0
    assert float(confidence) == pytest.approx(0.5)


def test_the_fast_variant_calls_the_library_once_an_op() -> None:
    found, why = ops.kernels(torch.device("cpu"), torch.float32, "torch-fast")
    assert (found.name, found.row_tile, why) == ("torch-fast", 1, "asked for")
    x, weight = draw(1, 256), draw(700, 256, seed=1)
    torch.testing.assert_close(found.linear(x, weight), ops.linear(x, weight), rtol=1e-4, atol=1e-4)
    assert found.sample_rows is torch_ops.sample_rows  # type: ignore[attr-defined]
    assert (found.exact, torch_ops.exact) == (False, True)


@pytest.mark.parametrize(
    ("device", "dtype", "why"),
    [("meta", torch.float32, "float32 on meta"), ("cpu", torch.bfloat16, "bfloat16 on cpu")],
)
def test_what_native_kernels_cannot_do_is_said(device: str, dtype: torch.dtype, why: str) -> None:
    found, reason = ops.kernels(torch.device(device), dtype)
    assert found is torch_ops
    assert why in reason
    with pytest.raises(ops.NativeUnavailable, match=why):
        ops.kernels(torch.device(device), dtype, "native")


def test_without_a_compiler_the_reason_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(Native, "load", staticmethod(Native.load.__wrapped__))
    found, reason = ops.kernels(torch.device("cpu"), torch.float32)
    assert found is torch_ops
    assert "no C++ compiler here" in reason
    with pytest.raises(ops.NativeUnavailable, match="g\\+\\+ or clang"):
        ops.kernels(torch.device("cpu"), torch.float32, "native")


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("TRIMODE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Native, "load", staticmethod(Native.load.__wrapped__))
    with pytest.raises(ops.NativeUnavailable, match="failed: no such flag"):
        ops.kernels(torch.device("cpu"), torch.float32, "native")
