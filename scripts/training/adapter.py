"""The draft adapter's objective (nld.md §6, LoRA drafter): teach the draft what verification will say.

The teacher is the frozen model's own AR choice, read off the clean rows of the same forward. A block counts up to and
including its first disagreement, because verification throws the rest away.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trimode.engine.models.model import Transformer

from .objective import Batch, Losses, attention


def draft_losses(model: Transformer, batch: Batch) -> Losses:
    """CE of the draft rows to the AR argmax over each block's accepted prefix and first rejection."""
    rows, total = batch.tokens.shape
    noisy = (torch.arange(total) >= batch.clean).repeat(rows)
    groups = model.config.num_attention_heads // model.config.num_key_value_heads
    hidden = model(batch.tokens.flatten(), batch.positions.flatten(), attention(batch, groups), noisy)
    hidden = hidden.unflatten(0, (rows, total))
    teacher = _teacher(model, hidden[:, : batch.clean].detach(), batch)
    logits = model.head(hidden[:, batch.clean :].flatten(0, 1)).float()
    asked = (batch.weight[:, batch.clean :] > 0).flatten()
    agree = (logits.argmax(-1) == teacher) | ~asked
    active = asked & _undisturbed(agree.view(rows, -1), batch.first).flatten()
    loss = F.cross_entropy(logits[active], teacher[active])
    accepted = float((agree & active).sum()) / max(1, _blocks(asked.view(rows, -1), batch.first))
    return Losses(loss, accepted, float(loss.detach()), batch.tokens.numel(), int(active.sum()))


def _undisturbed(agree: Tensor, first: Tensor) -> Tensor:
    """[B, N] whether all slots of the same block before this one agree."""
    before = (~agree).cumsum(1) - (~agree).int()
    return before == before.gather(1, first)


def _blocks(asked: Tensor, first: Tensor) -> int:
    """Blocks with a slot that is asked for."""
    return sum(len(row[mask].unique()) for row, mask in zip(first, asked, strict=True))


@torch.no_grad()
def _teacher(model: Transformer, clean: Tensor, batch: Batch) -> Tensor:
    """[rows * N] the AR choice at each noisy row's position, read from the clean row before it."""
    before = (batch.positions[:, batch.clean :] - 1).clamp(0, batch.clean - 1)
    hidden = clean.gather(1, before[..., None].expand(-1, -1, clean.shape[-1]))
    return model.head(hidden.flatten(0, 1)).argmax(-1)
