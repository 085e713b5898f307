"""Prints, as JSON, how many binaries of each kernel an engine's warm-up needs, and which more its passes need.

It runs as a process of its own, because Triton decides between interpreting and compiling when it is imported. Nothing
is compiled or run: launches are intercepted, and what Triton would compile for them is recorded.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from trimode.engine.decoding.sampling import Sampler
from trimode.engine.decoding.segment import Branch, Segment
from trimode.engine.forward.batch import Batch
from trimode.engine.forward.graphs import Buckets, Graphs, Work
from trimode.engine.forward.runner import Runner
from trimode.engine.kv_cache.pages import PagePool
from trimode.engine.models.adapter import PROJECTIONS
from trimode.engine.models.config import ModelConfig
from trimode.engine.models.model import Transformer
from trimode.engine.models.rope_config import RopeConfig
from trimode.engine.request import Sampling
from trimode.kernels import ops
from trimode.kernels.gpu import triton_ops

CONFIG = ModelConfig(
    vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-5, max_position_embeddings=2048, mask_token_id=5,
    eos_token_ids=(3,), rope=RopeConfig(theta=1e4, llama_4_scaling_beta=0.1, original_max_position_embeddings=64),
)  # fmt: skip
ROWS = (1, 2, 3, 5, 8, 13, 16, 17, 31, 32, 33, 64, 65, 100, 128, 129, 200, 256, 257, 300, 512)


def noted() -> dict[str, set[str]]:
    """What Triton would compile, by kernel; filled by launches from here on."""
    found: dict[str, set[str]] = {}

    def note(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        del grid, warmup
        bind = self.device_caches[0][-1]
        _, specialization, compiling = bind(*args, **options)
        found.setdefault(self.fn.__name__, set()).add(f"{specialization} {compiling}")

    driver: Any = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda _device: 0,
    )
    triton.runtime.driver.set_active(driver)
    JITFunction.run = note
    return found


class Once:
    """Does what is to be captured, as a capture does."""

    name = "once"

    def capture(self, work: Work) -> Work:
        work()
        return work


def segment(rows: int, adapter: bool) -> Segment:
    """A pass of so many rows, of which the draft's take the adapter if wanted."""
    trunk = Segment(start=0, trunk=(7,) * rows, read=1 + rows // 2)
    branch = Branch(tokens=(7,) * rows, read=rows, adapter=True)
    return replace(trunk, trunk=(), read=0, branches=(branch,)) if adapter else trunk


def main() -> None:
    found = noted()
    model = Transformer(CONFIG)
    model.add_adapter(16, 1.0, list(PROJECTIONS))
    model = model.to(torch.bfloat16).eval().requires_grad_(False)
    runner = Runner(model, cast(ops.Kernels, triton_ops))
    pool = PagePool(CONFIG, 1 << 24, torch.bfloat16, torch.device("cpu"))
    Graphs(runner, pool, Buckets(), Once()).warm()
    warm = {name: set(kinds) for name, kinds in found.items()}
    banned = torch.zeros(CONFIG.vocab_size, dtype=torch.bool)
    table = pool.take(9)
    for rows in ROWS:
        for adapter in (False, True):
            for sampling in (Sampling(), Sampling(temperature=1.0, top_k=3, top_p=0.5)):
                sampler = Sampler(sampling, CONFIG.vocab_size, banned, runner.kernels)
                batch = Batch([segment(rows, adapter)], [table])
                choices = [one for one in batch.choices([sampler], True) if one]
                triton_ops.begin(batch.logits(runner, pool), choices)
    more = {name: sorted(kinds - warm.get(name, set())) for name, kinds in found.items()}
    print(json.dumps({"warm": {name: len(kinds) for name, kinds in warm.items()}, "more": more}))


if __name__ == "__main__":
    main()
