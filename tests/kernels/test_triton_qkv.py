"""The QKV epilogue in Triton against the ops of the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from devices import DTYPES, close, draw, gaps, on_each_device
from torch import Tensor

from trimode.kernels.checks import TensorRefused
from trimode.kernels.gpu import qkv as triton_qkv
from trimode.kernels.layout import PAGE, Layout, Rotation

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
SLOTS = [2 * PAGE + 5, -1, 0, PAGE - 1, PAGE]


@dataclass
class Call:
    """Arguments of `place`, five rows; pages are poisoned."""

    x: Tensor
    queries: int
    norms: tuple[Tensor, Tensor] | None
    rotation: Rotation
    keys: Tensor
    values: Tensor
    layout: Layout

    @staticmethod
    def make(device: str, dtype: torch.dtype, queries: int, groups: int, dim: int, scaled: bool, normed: bool) -> Call:
        turn = draw(5, dim, seed=1, device=device)
        empty = torch.zeros(5, dtype=torch.int64, device=device)
        scale = draw(5, seed=2, device=device) if scaled else None
        norms = tuple(1 + draw(dim, seed=seed, dtype=dtype, device=device) / 4 for seed in (3, 4))
        poison = torch.full((3, groups, dim, PAGE), float("nan"), dtype=dtype, device=device)
        return Call(
            draw(5, queries + 2 * groups, dim, dtype=dtype, device=device),
            queries,
            (norms[0], norms[1]) if normed else None,
            Rotation(turn.cos().to(dtype), turn.sin().to(dtype), scale),
            poison,
            poison.transpose(2, 3).contiguous(),
            Layout(empty[None], empty, empty, empty, empty, torch.tensor(SLOTS, device=device)),
        )

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._by(triton_qkv.place, self.x.dtype)

    def expected(self) -> tuple[Tensor, Tensor, Tensor]:
        """By the reference in fp32, rounded once, but for the scale, which is rounded first."""
        found = self._by(triton_qkv.place_in_torch, torch.float32)
        return found[0].to(self.x.dtype), found[1].to(self.x.dtype), found[2].to(self.x.dtype)

    def _by(self, place: Callable[..., None], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        x, keys, values = (part.to(dtype, copy=True) for part in (self.x, self.keys, self.values))
        norms = self.norms and (self.norms[0].to(dtype), self.norms[1].to(dtype))
        scale = self.rotation.scale
        turn = Rotation(
            self.rotation.cos.to(dtype),
            self.rotation.sin.to(dtype),
            None if scale is None else scale.to(self.x.dtype).float(),
        )
        place(x, self.queries, norms, 1e-5, turn, keys, values, replace(self.layout, cache={}))
        return x, keys, values


@on_each_device
@each_dtype
@pytest.mark.parametrize(("queries", "groups", "dim"), [(4, 2, 8), (3, 1, 6)])
@pytest.mark.parametrize(("scaled", "normed"), [(True, True), (True, False), (False, False)])
def test_heads_are_placed_as_by_the_reference(
    device: str, dtype: torch.dtype, queries: int, groups: int, dim: int, scaled: bool, normed: bool
) -> None:
    call = Call.make(device, dtype, queries, groups, dim, scaled, normed)
    found, expected = call.run(), call.expected()
    close(found[0], expected[0])
    assert torch.equal(found[0][:, queries + groups :], call.x[:, queries + groups :])
    x, keys, values = found
    for row, at in enumerate(SLOTS):
        if at >= 0:
            page, offset = divmod(at, PAGE)
            assert torch.equal(keys[page, :, :, offset], x[row, queries : queries + groups])
            assert torch.equal(values[page, :, offset], x[row, queries + groups :])
    kept = 4 * groups * dim
    assert int(keys.isfinite().sum()) == int(values.isfinite().sum()) == kept


@on_each_device
@each_dtype
def test_a_row_is_placed_the_same_alone(device: str, dtype: torch.dtype) -> None:
    call = Call.make(device, dtype, 2, 1, 12, scaled=True, normed=True)
    whole = call.run()[0]
    for row in range(5):
        one = slice(row, row + 1)
        turn, scale = call.rotation, call.rotation.scale
        assert scale is not None
        x = call.x[one].clone()
        layout = replace(call.layout, slot=call.layout.slot[one])
        single = Rotation(turn.cos[one], turn.sin[one], scale[one].to(dtype).float())
        triton_qkv.place(x, 2, call.norms, 1e-5, single, call.keys, call.values, layout)
        assert torch.equal(x[0], whole[row])


@on_each_device
def test_rows_and_pages_may_lie_apart(device: str) -> None:
    call = Call.make(device, torch.float32, 2, 1, 8, scaled=False, normed=False)
    x, keys, values = call.run()
    wide, pages = gaps(call.x), torch.full((2, 3, 1, 8, PAGE), float("nan"), device=device)
    values_apart = gaps(torch.full((3, 2, PAGE, 8), float("nan"), device=device))
    turn = Rotation(gaps(call.rotation.cos), gaps(call.rotation.sin), None)
    triton_qkv.place(wide, 2, None, 1e-5, turn, pages[1], values_apart[:, 1:], call.layout)
    assert torch.equal(wide, x)
    assert torch.equal(pages[1].nan_to_num(9), keys.nan_to_num(9))
    assert torch.equal(values_apart[:, 1:].nan_to_num(9), values.nan_to_num(9))
    assert pages[0].isnan().all()
    assert values_apart[:, 0].isnan().all()


def refused(call: Call, why: str) -> None:
    with pytest.raises(TensorRefused, match=why):
        triton_qkv.place(call.x, call.queries, call.norms, 1e-5, call.rotation, call.keys, call.values, call.layout)


def test_what_does_not_fit_is_refused() -> None:
    call = Call.make("cpu", torch.float32, 2, 1, 8, scaled=True, normed=True)
    refused(replace(call, x=call.x.half()), "x is float16; this op takes float32 or bfloat16")
    refused(replace(call, queries=3), r"x has shape \[5, 4, 8\]; this op takes \[any, 5, any\]")
    refused(replace(call, keys=call.keys.bfloat16()), "keys is bfloat16")
    refused(replace(call, values=call.keys), "values has shape")
    refused(replace(call, x=call.x.transpose(1, 2).contiguous().transpose(1, 2)), "call contiguous")
    refused(replace(call, norms=(call.x[0, 0], call.x[0, 0, :6])), "key norm has shape")
    refused(replace(call, rotation=replace(call.rotation, cos=call.rotation.cos[:4])), "cos has shape")
    refused(replace(call, rotation=replace(call.rotation, scale=torch.ones(5).double())), "scale is float64")
    refused(
        replace(call, layout=replace(call.layout, slot=torch.zeros(10, dtype=torch.int64)[::2])), "slot has strides"
    )
    refused(
        replace(call, layout=replace(call.layout, slot=torch.zeros(5, dtype=torch.int64, device="meta"))), "on meta"
    )
    odd = Call.make("cpu", torch.float32, 2, 1, 7, scaled=True, normed=True)
    refused(odd, "7 dimensions; a rotation takes an even number")
