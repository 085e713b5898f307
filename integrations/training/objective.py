"""What a draft is trained for: to say what verification will say, from the first slot on.

Knows hidden states and the frozen head. Does not know models or files. The teacher of a slot is the clean row of the
same pass that predicts the same token. `tv` is the total variation of both distributions, one minus the probability
that a draft is accepted under coupled sampling; `kl` and `ce` (to the teacher's choice) are there to compare. A slot's
weight is the probability that verification reaches it, the product of what the slots before it agree on; FLOOR keeps
some for the others.

The head is frozen, so loss and gradient are computed together, some rows at a time, and no logits are kept.
Shapes: N slots, R of them that count, E hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from .batches import Batch

OBJECTIVES: Final = ("tv", "kl", "ce")
FLOOR: Final = 0.1
_ROWS: Final = 128
"""Slots whose logits are in memory together."""
_LEAST: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Scores:
    """`loss` for the optimiser, a sum over slots by their weights, and the sum of the `weight`s. Of the batch: the
    number of `drafts`, and of `accepted` tokens: leading slots that say what the base does, forced ones not counted."""

    loss: Tensor
    weight: float
    drafts: int
    accepted: int


def scores(clean: Tensor, slots: Tensor, head: Tensor, batch: Batch, objective: str) -> Scores:
    """Returns loss and acceptance of one batch: clean [C, E], slots [N, E] with gradients, head [V, E]."""
    rows = (batch.counts & ~batch.forced).nonzero()[:, 0]
    judges, which = batch.judge[rows].unique(return_inverse=True)
    task = Task(clean[judges], which, batch.label[rows], rows, objective)
    loss, weight, agree = _Loss.apply(slots[rows], task, head, batch)  # type: ignore[no-untyped-call]
    grid = agree.view(-1, batch.width)
    leading = grid[:, batch.skipped :].int().cumprod(1)
    counted = (batch.counts & ~batch.forced).view_as(grid)[:, batch.skipped :]
    return Scores(loss, float(weight), len(grid), int((leading * counted).sum()))


class Task(NamedTuple):
    """Rows that count. judged [J, E]: hidden states of teachers; of each row [R]: `which` of them, `label` (-1: none),
    and its slot in `rows`."""

    judged: Tensor
    which: Tensor
    label: Tensor
    rows: Tensor
    objective: str


class _Loss(torch.autograd.Function):
    """(slots that count [R, E], task, head, batch) -> (sum of weighted losses, sum of weights, agree [N] bool)."""

    @staticmethod
    def forward(ctx: Any, slots: Tensor, task: Task, head: Tensor, batch: Batch) -> Any:
        grad, losses = torch.empty_like(slots), slots.new_empty(len(slots), dtype=torch.float32)
        chance = slots.new_ones(len(batch.counts), dtype=torch.float32)
        agree = torch.ones_like(batch.counts)
        said = task.judged @ head.T
        choices, teachers = said.argmax(-1), torch.softmax(said, -1)
        for at in range(0, len(slots), _ROWS):
            here = slice(at, at + _ROWS)
            z, choice = slots[here] @ head.T, choices[task.which[here]]
            answer = torch.where(task.label[here] >= 0, task.label[here], choice)
            q = torch.softmax(z, -1)
            sure = (choice != answer)[:, None]  # a schema forbade the base's own choice
            p = teachers[task.which[here]].masked_fill(sure, 0.0).scatter_add(1, answer[:, None], sure.to(z.dtype))
            chance[task.rows[here]] = q.gather(1, answer[:, None])[:, 0].float()
            agree[task.rows[here]] = z.argmax(-1) == answer
            found, losses[here] = _OBJECTIVES[task.objective](p, q, answer)
            grad[here] = found @ head
        weight = _reach(chance, batch)[task.rows]
        total = weight.sum()
        ctx.save_for_backward(grad * weight[:, None].to(grad.dtype))
        ctx.mark_non_differentiable(total, agree)
        return (losses * weight).sum(), total, agree

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = ctx.saved_tensors
        return grad * grads[0].to(grad.dtype), None, None, None


def _ce(_p: Tensor, q: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradient [n, V] by logits, and the losses [n]: the cross-entropy to the teacher's choice."""
    loss = -q.gather(1, answer[:, None])[:, 0].float().clamp_min(_LEAST).log()
    return q.scatter_add(1, answer[:, None], torch.full_like(q[:, :1], -1.0)), loss


def _kl(p: Tensor, q: Tensor, _answer: Tensor) -> tuple[Tensor, Tensor]:
    """The same of the cross-entropy to the teacher's distribution, whose gradient is that of the divergence."""
    loss = -(p * q.clamp_min(_LEAST).log()).sum(-1).float()
    return q - p, loss


def _tv(p: Tensor, q: Tensor, _answer: Tensor) -> tuple[Tensor, Tensor]:
    """The same of the total variation."""
    little = torch.where(q < p, q, 0.0)
    return q * little.sum(-1, keepdim=True) - little, 1 - torch.minimum(p, q).sum(-1).float()


_OBJECTIVES: Final = {"ce": _ce, "kl": _kl, "tv": _tv}


def _reach(chance: Tensor, batch: Batch) -> Tensor:
    """Returns each slot's chance [N] to be reached, FLOOR at least."""
    grid = chance.view(-1, batch.width)
    return torch.cat((torch.ones_like(grid[:, :1]), grid[:, :-1].cumprod(1)), 1).flatten().clamp_min(FLOOR)
