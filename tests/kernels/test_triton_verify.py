"""Verification in Triton against plain Python, and the ring of rejected drafts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from devices import INTERPRETED, on_each_device
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimode.kernels.checks import TensorRefused
from trimode.kernels.gpu import verify as triton_verify
from trimode.kernels.gpu.verify import RejectedDrafts

POISON = -777


def padded(lists: list[list[int]], width: int, device: str) -> tuple[Tensor, Tensor]:
    """[N, width] with poison behind each list, in rows that lie apart; and the lengths."""
    wide = torch.full((len(lists), width + 3), POISON, device=device)
    for row, numbers in zip(wide, lists, strict=True):
        row[: len(numbers)] = torch.tensor(numbers, dtype=torch.int64)
    return wide[:, :width], torch.tensor([len(numbers) for numbers in lists], dtype=torch.int64, device=device)


def verify(
    drafts: list[list[int]], chosen: list[list[int]], refused: RejectedDrafts, device: str
) -> tuple[Tensor, Tensor]:
    return triton_verify.verify(*padded(drafts, 5, device), *padded(chosen, 6, device), refused)


@on_each_device
def test_the_accepted_the_next_and_the_refused(device: str) -> None:
    refused = RejectedDrafts.empty(6, 4, 5, torch.device(device))
    drafts = [[1, 2, 3], [1, 2, 3], [1, 2, 3], [], [1, 2], [9, 2, 3, 4, 5]]
    chosen = [[1, 2, 3, 4], [1, 7, 3, 4], [1, 2, 3], [8], [1], [1, 2, 3, 4, 5, 6]]
    accepted, following = verify(drafts, chosen, refused, device)
    assert accepted.tolist() == [3, 1, 3, 0, 1, 0]
    assert following.tolist() == [4, 7, -1, 8, -1, 1]
    assert [refused.read(n, 0) for n in range(6)] == [[[]], [[2, 3]], [[]], [[]], [[2]], [[9, 2, 3, 4, 5]]]


tokens = st.lists(st.integers(0, 2), max_size=5)


@pytest.mark.parametrize("device", ["cpu"] if INTERPRETED else ["cuda"])
@given(rounds=st.lists(st.lists(st.tuples(tokens, tokens), min_size=2, max_size=2), min_size=1, max_size=3))
@settings(deadline=None, derandomize=True, max_examples=20)
def test_verify_equals_its_reference(device: str, rounds: list[list[tuple[list[int], list[int]]]]) -> None:
    """Also the ring, which is smaller than the rounds, and of which the reference writes the same."""
    mine, plain = (RejectedDrafts.empty(2, 2, 5, torch.device(device)) for _ in range(2))
    for pairs in rounds:
        drafts, chosen = ([pair[side] for pair in pairs] for side in (0, 1))
        arguments = (*padded(drafts, 5, device), *padded(chosen, 6, device))
        found = triton_verify.verify(*arguments, mine)
        expected = triton_verify.verify_in_torch(*arguments, plain)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
    since = max(0, len(rounds) - 2)
    for request in range(2):
        rejected = mine.read(request, since)
        assert rejected == plain.read(request, since)
        assert rejected == [pairs[request][0][agreed(*pairs[request]) :] for pairs in rounds[since:]]


def agreed(draft: list[int], chosen: list[int]) -> int:
    return next((at for at in range(len(draft)) if draft[: at + 1] != chosen[: at + 1]), len(draft))


@on_each_device
def test_a_ring_that_was_read_too_late_says_so(device: str) -> None:
    refused = RejectedDrafts.empty(1, 2, 5, torch.device(device))
    for first in (1, 2, 3):
        verify([[first]], [[0]], refused, device)
    assert refused.read(0, 1) == [[2], [3]]
    assert refused.read(0, 3) == []
    with pytest.raises(IndexError, match="verifications 0 to 0 are overwritten: the ring holds 2"):
        refused.read(0, 0)


def test_no_requests_and_no_drafts() -> None:
    nothing = RejectedDrafts.empty(0, 2, 5, torch.device("cpu"))
    accepted, following = verify([], [], nothing, "cpu")
    assert accepted.shape == following.shape == (0,)


def test_what_does_not_fit_is_refused() -> None:
    ring = RejectedDrafts.empty(1, 2, 3, torch.device("cpu"))
    draft, counts = torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, dtype=torch.int64)

    def refused(why: str, draft: Tensor = draft, counts: Tensor = counts, ring: RejectedDrafts = ring) -> None:
        with pytest.raises(TensorRefused, match=why):
            triton_verify.verify(draft, counts, draft, counts, ring)

    refused("drafts is int32; this op takes int64", draft=draft.int())
    refused(r"drafted has shape \[2\]; this op takes \[1\]", counts=torch.ones(2, dtype=torch.int64))
    refused("room for 3", draft=torch.zeros(1, 4, dtype=torch.int64))
    refused("call contiguous", draft=torch.zeros(1, 6, dtype=torch.int64)[:, ::2])
    refused(r"ring.turn has shape \[4\]", ring=replace(ring, turn=torch.zeros(4, dtype=torch.int64)))
    refused("the ring has gaps", ring=replace(ring, tokens=torch.zeros(1, 2, 5, dtype=torch.int64)[..., :3]))
