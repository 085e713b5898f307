"""Verification in Triton, without waiting for the device: compares drafts with the tokens that the target sampled.

Knows token ids only. Rejected tokens go to a ring buffer on the device, which can be read after any number of passes.
Decoding does not use this kernel as long as each cycle is read before the next is queued (docs/gpu.md says why).
"""

from __future__ import annotations

import typing
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import TensorRefused, check_same_device, check_tensor
from .numerics import jit, launch


@dataclass(frozen=True, slots=True)
class RejectedDrafts:
    """The last drafts of N requests: tokens [N, size, k] int64; of these rejected[n, i] int64, from `start`, failed.

    `start` [N, size] int64: how many were accepted. `turn` [N] int64: verifications so far; number i is at i % size.
    """

    tokens: Tensor
    start: Tensor
    rejected: Tensor
    turn: Tensor

    @staticmethod
    def empty(requests: int, size: int, longest: int, device: torch.device) -> RejectedDrafts:
        """Allocates the ring: `size` drafts of at most `longest` tokens for each request."""
        numbers = torch.zeros(requests, size, dtype=torch.int64, device=device)
        tokens = torch.zeros(requests, size, longest, dtype=torch.int64, device=device)
        return RejectedDrafts(tokens, numbers, numbers.clone(), torch.zeros(requests, dtype=torch.int64, device=device))

    def read(self, request: int, since: int) -> list[list[int]]:
        """Returns the rejected tokens of a request's verifications from number `since` on; waits for the device.

        Raises IndexError if later ones have overwritten them.
        """
        turn, size = int(self.turn[request]), self.tokens.shape[1]
        if since < turn - size:
            raise IndexError(
                f"verifications {since} to {turn - size - 1} are overwritten: the ring holds {size}; "
                "read more often, or make a larger one"
            )
        tokens, start, rejected = (part[request].tolist() for part in (self.tokens, self.start, self.rejected))
        at = [number % size for number in range(since, turn)]
        return [tokens[i][start[i] : start[i] + rejected[i]] for i in at]


def verify_in_torch(
    drafts: Tensor, drafted: Tensor, chosen: Tensor, picked: Tensor, ring: RejectedDrafts
) -> tuple[Tensor, Tensor]:
    """Does what `verify` does, request by request."""
    accepted, following = torch.zeros_like(drafted), torch.full_like(drafted, -1)
    for n in range(drafts.shape[0]):
        draft, choice = drafts[n, : drafted[n]].tolist(), chosen[n, : picked[n]].tolist()
        count = 0
        while count < min(len(draft), len(choice)) and draft[count] == choice[count]:
            count += 1
        accepted[n] = count
        if count < len(choice):
            following[n] = choice[count]
        slot = int(ring.turn[n]) % ring.tokens.shape[1]
        ring.tokens[n, slot, : len(draft)] = drafts[n, : drafted[n]]
        ring.start[n, slot], ring.rejected[n, slot] = count, len(draft) - count
        ring.turn[n] += 1
    return accepted, following


def verify(
    drafts: Tensor, drafted: Tensor, chosen: Tensor, picked: Tensor, ring: RejectedDrafts
) -> tuple[Tensor, Tensor]:
    """Returns accepted [N], how many leading draft tokens were sampled too, and following [N], the token sampled next.

    drafts [N, k], of which the first drafted[n] count; chosen [N, c], of which the first picked[n] do: the tokens that
    the target samples at the draft's positions and, as a rule, one more. `following` is -1 where the whole draft is
    accepted and no row is left, as after an end token. All int64; rows of matrices may have gaps between them. The
    drafts are written to `ring`. Raises TensorRefused.
    """
    _check(drafts, drafted, chosen, picked, ring)
    accepted, following = torch.empty_like(drafted), torch.empty_like(drafted)
    if drafts.shape[0]:
        block = triton.next_power_of_2(max(1, drafts.shape[1], chosen.shape[1]))
        _verify[(drafts.shape[0],)](
            drafts, drafted, chosen, picked, ring.tokens, ring.start, ring.rejected, ring.turn, accepted,
            following, drafts.stride(0), chosen.stride(0),
            **launch(1, SIZE=ring.tokens.shape[1], LONGEST=ring.tokens.shape[2], BLOCK=block),
        )  # fmt: skip
    return accepted, following


def _check(drafts: Tensor, drafted: Tensor, chosen: Tensor, picked: Tensor, ring: RejectedDrafts) -> None:
    requests, (_, size, longest) = drafts.shape[0], ring.tokens.shape
    shapes: dict[str, tuple[Tensor, tuple[int | None, ...]]] = {
        "drafts": (drafts, (None, None)),
        "drafted": (drafted, (requests,)),
        "chosen": (chosen, (requests, None)),
        "picked": (picked, (requests,)),
        "ring.tokens": (ring.tokens, (requests, size, longest)),
        "ring.start": (ring.start, (requests, size)),
        "ring.rejected": (ring.rejected, (requests, size)),
        "ring.turn": (ring.turn, (requests,)),
    }
    for name, (tensor, shape) in shapes.items():
        check_tensor(name, tensor, shape, (torch.int64,))
    check_same_device(drafts, **{name: tensor for name, (tensor, _) in shapes.items()})
    if not (ring.tokens.is_contiguous() and ring.start.is_contiguous() and ring.rejected.is_contiguous()):
        raise TensorRefused("the ring has gaps; make it with RejectedDrafts.empty")
    if drafts.shape[1] > longest:
        raise TensorRefused(f"drafts have up to {drafts.shape[1]} tokens; the ring has room for {longest}")


@jit("drafted", "picked", "accepted", "following", counts=["draft_row", "chosen_row"])
def _verify(
    drafts: typing.Any, drafted: typing.Any, chosen: typing.Any, picked: typing.Any, tokens: typing.Any,
    start: typing.Any, rejected: typing.Any, turn: typing.Any, accepted: typing.Any, following: typing.Any,
    draft_row: typing.Any, chosen_row: typing.Any, SIZE: tl.constexpr, LONGEST: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Program (request,)."""
    request = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    length, rows, number = tl.load(drafted + request), tl.load(picked + request), tl.load(turn + request)
    draft = tl.load(drafts + request * draft_row + at, mask=at < length, other=-1)
    choice = tl.load(chosen + request * chosen_row + at, mask=at < rows, other=-1)
    compared = tl.minimum(length, rows)
    count = tl.min(tl.where((draft != choice) & (at < compared), at.to(tl.int64), compared))
    tl.store(accepted + request, count)
    after = tl.max(tl.where((at == count) & (at < rows), choice, -1))
    tl.store(following + request, after)
    slot = request * SIZE + number % SIZE
    tl.store(tokens + slot * LONGEST + at, draft, mask=at < length)
    tl.store(start + slot, count)
    tl.store(rejected + slot, length - count)
    tl.store(turn + request, number + 1)
