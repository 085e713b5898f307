"""Kernels whose rows do not agree are found when an engine is loaded, and refused unless the caller accepts them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import small
import torch
from torch import Tensor

from trimode.engine.errors import RequestError, RowsDisagree
from trimode.engine.forward.runner import Runner
from trimode.engine.models.adapter import PROJECTIONS
from trimode.engine.token_engine import TokenEngine
from trimode.kernels import block, ops
from trimode.kernels.native.native_ops import Native
from trimode.kernels.reference import fixed_shape, torch_ops

CPU = torch.device("cpu")


def standing_in(**replaced: Any) -> Any:
    """The reference with other ops in places."""
    made = SimpleNamespace(**{**vars(torch_ops), **replaced})
    made.forward = partial(block.forward, made)
    return made


def found(kernels: Any) -> str | None:
    return ops.disagreement(kernels, Runner(small.model(3, shared=2, rank=2), cast(ops.Kernels, kernels)).stack)


def nudged(x: Tensor, many: bool) -> Tensor:
    """x, or x with other last bits."""
    return x * (1 + 2.0**-18) if many else x


def linear(count: Callable[[int], bool]) -> Callable[..., Tensor]:
    """The reference's product with other bits for some numbers of rows."""

    def made(x: Tensor, weight: Tensor, onto: Tensor | None = None) -> Tensor:
        return torch_ops.linear(nudged(x, count(len(x))), weight, onto)

    return made


def draft_rows(x: Tensor, weight: Tensor, onto: Tensor | None = None) -> Tensor:
    """A product of the adapter, whose inner size is 2, feels the number of rows; the others do not."""
    return torch_ops.linear(nudged(x, 2 in weight.shape and len(x) > 4), weight, onto)


def attention(x: Tensor, queries: int, keys: Tensor, values: Tensor, layout: ops.Layout) -> Tensor:
    mixed = torch_ops.attention(x, queries, keys, values, layout)
    return nudged(mixed, layout.tables.shape[0] > 1)


def tables(x: Tensor, queries: int, keys: Tensor, values: Tensor, layout: ops.Layout) -> Tensor:
    """Attention that feels the most pages that any request needs."""
    return nudged(torch_ops.attention(x, queries, keys, values, layout), layout.tables.shape[1] > 1)


def branches(x: Tensor, queries: int, keys: Tensor, values: Tensor, layout: ops.Layout) -> Tensor:
    """Attention that feels in rows of branches which place of the pass they are at."""
    mixed = torch_ops.attention(x, queries, keys, values, layout)
    odd = (layout.own_count > 0) & (torch.arange(len(x)) % 2 == 1)
    return torch.where(odd[:, None, None], nudged(mixed, True), mixed)


def keep(x: Tensor, queries: int, keys: Tensor, values: Tensor, layout: ops.Layout) -> None:
    torch_ops.keep(nudged(x, len(x) == 3), queries, keys, values, layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_kernels_that_keep_their_promise_are_found_to(dtype: torch.dtype) -> None:
    runner = Runner(small.model(3, shared=2, rank=2, adapted=list(PROJECTIONS)).to(dtype), torch_ops)
    assert ops.disagreement(torch_ops, runner.stack) is None


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 16, 32, 33])
def test_a_product_that_feels_the_number_of_rows_is_found(rows: int) -> None:
    assert found(standing_in(linear=linear(lambda count: count == rows)))
    assert found(standing_in(linear=linear(lambda count: count > rows))) or rows == 33


@pytest.mark.parametrize("place", range(33))
def test_a_product_that_feels_the_place_of_a_row_is_found(place: int) -> None:
    def made(x: Tensor, weight: Tensor, onto: Tensor | None = None) -> Tensor:
        uneven = x.clone()
        uneven[place : place + 1] = nudged(uneven[place : place + 1], True)
        return torch_ops.linear(uneven, weight, onto)

    assert found(standing_in(linear=made))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"linear": draft_rows}, "draft rows"),
        ({"attention": attention}, "alone and among 33"),
        ({"attention": tables}, "draft rows alone and among 33"),
        ({"attention": branches}, "alone and among 33"),
        ({"keep": keep}, "alone and among 33"),
    ],
)
def test_each_op_is_asked(replaced: dict[str, Any], message: str) -> None:
    assert message in (found(standing_in(**replaced)) or "")


@pytest.mark.parametrize("place", [*range(1, fixed_shape.TILE), -1])
def test_a_library_that_feels_the_place_of_a_row_in_its_tile_is_noticed(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles of one shape cannot rule this out, so it is looked for."""
    plain = fixed_shape.multiply

    def uneven(a: Tensor, b: Tensor) -> Tensor:
        made = plain(a, b)
        made[..., place, :] *= 1 + 2.0**-20
        return made

    monkeypatch.setattr(fixed_shape, "multiply", uneven)
    assert found(torch_ops) is not None


def test_an_engine_refuses_kernels_that_disagree_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = standing_in(linear=linear(lambda count: count > 4))
    chosen = ops.kernels

    def kernels(
        device: torch.device, dtype: torch.dtype, choice: str, precision: ops.Precision | None
    ) -> tuple[Any, str]:
        return (broken, "asked for") if choice == "torch" else chosen(device, dtype, choice, precision)

    monkeypatch.setattr(ops, "kernels", kernels)
    with pytest.raises(RowsDisagree, match="kernels='torch-fast' loads without the promise") as caught:
        TokenEngine(small.model(3), small.text, small.TEXT_VOCAB, kv_bytes=1 << 20, kernels="torch")
    assert isinstance(caught.value, RequestError)
    assert caught.value.kernels == "torch"
    assert "row 13 alone and among 33 have other logits" in caught.value.found
    fast = TokenEngine(small.model(3), small.text, small.TEXT_VOCAB, kv_bytes=1 << 20, kernels="torch-fast")
    assert fast.exactness == "not promised"
    fast.close()


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_an_engine_says_that_rows_were_checked(kernels: str) -> None:
    made = TokenEngine(small.model(3), small.text, small.TEXT_VOCAB, kv_bytes=1 << 20, kernels=kernels)
    assert made.exactness == "checked"
    made.close()


def test_native_kernels_are_checked_too_and_no_others_taken_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Native.forward

    def uneven(self: Native, x: Tensor, *rest: Any) -> Any:
        logits, sampled = forward(self, x, *rest)
        return nudged(logits, len(x) > 8), sampled

    monkeypatch.setattr(Native, "forward", uneven)
    with pytest.raises(RowsDisagree, match=r"native kernels give a row other bits.*kernels='torch' calls no kernels"):
        TokenEngine(small.model(3), small.text, small.TEXT_VOCAB, kv_bytes=1 << 20)


def test_interpreted_kernels_are_not_checked_and_it_is_said() -> None:
    model = small.model(3).to(torch.bfloat16)
    made = TokenEngine(model, small.text, small.TEXT_VOCAB, kv_bytes=1 << 20, kernels="triton")
    assert made.exactness == ("checked" if torch.cuda.is_available() else "not checked")
    made.close()


def test_the_check_leaves_an_engine_as_it_was() -> None:
    """Blocks note what belongs to all of them; a check of a few must not leave that behind."""
    runner = Runner(small.model(3, rank=2), Native.load())
    assert ops.disagreement(runner.kernels, runner.stack) is None
    assert all(not part.cache for part in runner.stack.blocks)
