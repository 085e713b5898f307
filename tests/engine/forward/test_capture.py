"""What graphs capture, on the meta device, which has no numbers: nothing in it waits, or copies from a host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import small
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from trimode.engine.forward.graphs import Buckets, Graphs
from trimode.engine.forward.runner import Runner
from trimode.engine.kv_cache.pages import PagePool
from trimode.kernels import ops
from trimode.kernels.gpu import norm as triton_norm
from trimode.kernels.gpu import triton_ops

CONFIG = replace(
    small.CONFIG,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    rope=replace(small.CONFIG.rope, llama_4_scaling_beta=0.1),
)


class Watch(TorchDispatchMode):
    """Operations that wait for a device, or copy to it from the host's memory: what no graph can hold."""

    seen: list[str]
    refused: list[str]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, host = str(func), [each for each in args if isinstance(each, Tensor) and each.device.type == "cpu"]
        self.seen.append(name)
        if any(each.ndim for each in host) or "lift_fresh" in name or "local_scalar" in name or "nonzero" in name:
            self.refused.append(name)
        return func(*args, **(kwargs or {}))


class Made(TorchFunctionMode):
    """Tensors made from the host's numbers."""

    refused: list[str]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.tensor, torch.as_tensor, torch.from_numpy, torch.frombuffer):
            self.refused.append(func.__name__)
        return func(*args, **(kwargs or {}))


def watched(work: Callable[[], object]) -> Watch:
    watch, made = cast(Any, Watch)(), cast(Any, Made)()
    found: Watch = watch
    found.seen, found.refused = [], []
    made.refused = found.refused
    with watch, made:
        work()
    return found


@pytest.mark.parametrize("adapted", [False, True])
def test_what_is_captured_waits_for_nothing(adapted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of Triton kernels on the meta device, which has no numbers to wait for; launches are left out."""
    kernel = vars(triton_norm)["_norm"]  # of the class that all kernels have, interpreted or compiled
    monkeypatch.setattr(type(kernel), "__getitem__", lambda *_: lambda *_, **__: None)
    meta = torch.device("meta")
    model = small.model(3, CONFIG, rank=2).to(meta, torch.bfloat16)
    model.frequencies = model.frequencies.to(meta)
    runner = Runner(model, cast(ops.Kernels, triton_ops))
    works: list[Callable[[], None]] = []

    class Noting:
        name = "noting"

        def capture(self, work: Callable[[], None]) -> Callable[[], None]:
            works.append(work)
            return work

    graphs = Graphs(
        runner,
        PagePool(CONFIG, 1 << 20, torch.bfloat16, meta),
        Buckets(rows=(1, 3, 8, 21, 70), tiles=(1, 3), batches=(2, 9)),
        Noting(),
    )
    graphs.warm()
    assert len(works) == len(graphs.buckets) + len(graphs.counts)
    for work, bucket in zip(works, reversed(graphs.buckets), strict=False):
        if bucket.adapted == adapted:
            found = watched(work)
            assert not found.refused
            assert len(found.seen) > 20
    for work in works[len(graphs.buckets) :]:
        found = watched(work)
        assert not found.refused
        assert found.seen


def test_what_waits_is_seen() -> None:
    assert watched(lambda: torch.tensor([1, 2], device="meta") + 1).refused
    assert watched(lambda: torch.ones(3).nonzero()).refused
    assert watched(lambda: torch.ones(3).sum().item()).refused
    assert watched(lambda: torch.empty(2, device="meta").copy_(torch.ones(2))).refused
    assert not watched(lambda: torch.arange(3, device="meta") * 2).refused
