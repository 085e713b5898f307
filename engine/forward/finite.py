"""Whether logits are finite numbers, and if not, where a model's arithmetic first stopped to be.

Knows passes and kernels. Does not know requests. NaN and infinity come from damaged weights, or where numbers overflow
a narrow dtype.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from math import isfinite, isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimode.kernels.ops import SampledTokens

from ..kv_cache.pages import PagePool
from .batch import Batch
from .runner import Runner


def finite(logits: Tensor, sampled: SampledTokens | None) -> bool:
    """Whether logits [R, V] are finite; on a device, which is not asked again, whether confidences of sampled tokens
    are numbers."""
    if not len(logits):
        return True
    if logits.device.type != "cpu":
        return sampled is None or not any(map(isnan, sampled.confidence))
    if logits.dtype != torch.float32:
        return bool(logits.isfinite().all())
    # numpy, because torch would wake threads of its own, which spin on beside those of the native kernels.
    numbers = logits.numpy()
    with np.errstate(invalid="ignore"):
        return isfinite(numbers.min()) and isfinite(numbers.max())


@torch.inference_mode()
def first_bad_part(batch: Batch, runner: Runner, pool: PagePool) -> str:
    """Where a pass with logits that are not finite goes wrong, in words: it is run again with fewer layers.

    Rows write the keys and values again that they wrote before.
    """
    ops: Any = runner.kernels
    whole, layers = runner.stack, len(runner.stack.blocks)
    rows = runner.embed(torch.tensor(batch.tokens, device=runner.device))
    if not rows.isfinite().all():
        return "the embedding"
    head = ops.linear(ops.rms_norm(rows, whole.norm, whole.eps, whole.norm_groups), whole.head)
    if not head.isfinite().all():
        return "the output head or the norm before it"
    for count in range(1, layers):
        runner.stack = replace(whole, blocks=[replace(block, cache={}) for block in whole.blocks[:count]])
        pages = copy(pool)
        pages.keys, pages.values = pool.keys[:count], pool.values[:count]
        try:
            logits = batch.logits(runner, pages)
        finally:
            runner.stack = whole
        if not logits.isfinite().all():
            return f"layer {count - 1} of 0 to {layers - 1}"
    return f"layer {layers - 1} of 0 to {layers - 1}"
