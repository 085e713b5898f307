"""The training pass against the model's own forward over all rows at once, and its gradients against autograd's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from peft_adapters import write_base
from torch import Tensor

from trimode.engine.drafting import Drafting, Noise
from trimode.engine.models.checkpoint import locate
from trimode.engine.models.model import Transformer
from trimode.integrations.training.batches import Batch, Picked, batch_of, trunk_of
from trimode.integrations.training.data.samples import Answer, Cut, Sample, cuts
from trimode.integrations.training.forward import known_rows, slot_rows
from trimode.integrations.training.objective import FLOOR, OBJECTIVES, scores
from trimode.integrations.training.recipe import Recipe
from trimode.integrations.training.trainable import add_trainable, parameters, terms_of

CPU = torch.device("cpu")
CLOSE = 2e-4


def drafting(causal: bool, ahead: bool, noise: Noise | None = None) -> Drafting:
    noise = noise or Noise(first=1, last=200)
    return Drafting(noise=noise, causal=causal, ahead=ahead, exact_first=True, seed_in_draft=False, longest=8)


def sample(rng: random.Random, trunk: int = 14, answers: int = 2) -> Sample:
    ids = np.asarray([rng.randrange(200) for _ in range(trunk)], np.int32)
    own = np.asarray([at > 4 for at in range(trunk)])
    found = []
    for _ in range(answers):
        length = rng.randint(2, 6)
        branch = np.asarray([rng.randrange(200) for _ in range(length)], np.int32)
        found.append(Answer(rng.randint(1, trunk), branch, np.asarray([rng.random() < 0.2 for _ in range(length)])))
    return Sample(ids, own, tuple(found))


def path_of(one: Sample, row: int) -> list[int]:
    """Rows of the text up to `row`, as decoding would have read them: the trunk, or its beginning and a branch."""
    start = len(one.ids)
    if row < start:
        return list(range(row + 1))
    for answer in one.answers:
        if row < start + len(answer.ids):
            return [*range(answer.at), *range(start, row + 1)]
        start += len(answer.ids)
    raise AssertionError(row)


@given(st.integers(0, 10_000), st.integers(2, 7))
@settings(max_examples=60, deadline=None)
def test_drafts_begin_where_decoding_drafts(seed: int, slots: int) -> None:
    """Each draft: a seed, the token after it, and as many slots as the text has tokens to predict."""
    one = sample(random.Random(seed), answers=seed % 3)
    ids = [*one.ids.tolist(), *(token for answer in one.answers for token in answer.ids.tolist())]
    for cut in cuts(one, slots, random.Random(0)):
        assert 1 <= cut.slots <= slots
        assert path_of(one, cut.first)[-2] == cut.seed
        last = path_of(one, cut.first + cut.slots)
        assert last[: -cut.slots] == path_of(one, cut.first)
        assert len(last) <= len(ids)


def naive(model: Transformer, one: Sample, cut: Cut, ids: list[int], how: Drafting) -> Tensor:
    """Hidden states of a draft's slots by the model's own forward: the known text, then the slots with the adapter."""
    known = path_of(one, cut.seed)
    every = [*one.ids.tolist(), *(token for answer in one.answers for token in answer.ids.tolist())]
    tokens = torch.tensor([*(every[row] for row in known), *ids])
    size, width = len(tokens), len(ids)
    seen = torch.ones(size, size).tril().bool()
    if not how.causal:
        seen[-width:, -width:] = True
    adapted = torch.arange(size) >= size - width

    def attend(_layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        q, k, v = q.transpose(0, 1), *(x.repeat_interleave(groups, 1).transpose(0, 1) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(0, 1)

    hidden: Tensor = model(tokens, torch.arange(size), attend, adapted)
    return hidden[-width:]


@pytest.fixture(scope="module", params=["Llama", "Qwen3"])
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    path = tmp_path_factory.mktemp("base") / request.param
    write_base(path, request.param)
    found, _ = locate(path).load(torch.float32, CPU)
    add_trainable(found, Recipe(noise=(1, 200), rank=3, scale=1.5))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in parameters(found):
            one.copy_(0.2 * torch.randn(one.shape, generator=generator))
    return found


def batch(one: Sample, how: Drafting, width: int) -> tuple[Batch, list[Cut]]:
    found = cuts(one, width, random.Random(2))
    return batch_of([Picked(one, found)], width + (not how.ahead), how, random.Random(3)), found


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("recompute", [False, True])
def test_slots_are_those_of_a_decoding_pass(model: Transformer, causal: bool, ahead: bool, recompute: bool) -> None:
    one, how = sample(random.Random(7)), drafting(causal, ahead)
    made, found = batch(one, how, 4)
    assert found
    known = known_rows(model, trunk_of(one))
    slots = slot_rows(model, terms_of(model, torch.float32), made, [known], recompute)
    for cut, rows, ids in zip(found, slots.split(made.width), made.noise.split(made.width), strict=True):
        torch.testing.assert_close(rows, naive(model, one, cut, ids.tolist(), how), rtol=CLOSE, atol=CLOSE)


def test_clean_rows_are_the_base(model: Transformer) -> None:
    one = sample(random.Random(8))
    hidden = known_rows(model, trunk_of(one)).hidden
    every = [*one.ids.tolist(), *(token for answer in one.answers for token in answer.ids.tolist())]
    for row in range(one.tokens):
        path = path_of(one, row)
        found = naive_base(model, [every[at] for at in path])
        torch.testing.assert_close(hidden[row], found, rtol=CLOSE, atol=CLOSE)


def naive_base(model: Transformer, ids: list[int]) -> Tensor:
    def attend(_layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        q, k, v = q.transpose(0, 1), *(x.repeat_interleave(groups, 1).transpose(0, 1) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1)

    with torch.no_grad():
        hidden: Tensor = model(torch.tensor(ids), torch.arange(len(ids)), attend)
    return hidden[-1]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("ahead", [True, False])
def test_losses_and_gradients(model: Transformer, objective: str, ahead: bool) -> None:
    """The head's shortcut against the formula under autograd, draft by draft."""
    one, how = sample(random.Random(9)), drafting(True, ahead)
    made, found = batch(one, how, 4)
    head = model.diffusion_head.weight
    clean = known_rows(model, trunk_of(one)).hidden
    slots = slot_rows(model, terms_of(model, torch.float32), made, [clean_known(model, one)])
    slots = slots.detach().requires_grad_()
    mine = scores(clean, slots, head, made, objective)
    mine.loss.backward()
    assert slots.grad is not None
    other = slots.detach().requires_grad_()
    loss, weight, accepted = naive_loss(one, found, clean, other, head, made.width, ahead, objective)
    loss.backward()
    assert other.grad is not None
    torch.testing.assert_close(slots.grad, other.grad, rtol=1e-3, atol=1e-5)
    assert mine.weight == pytest.approx(weight, rel=1e-4)
    assert (mine.drafts, mine.accepted) == (len(found), accepted)
    if objective != "kl":  # its constant, the teacher's entropy, is left out
        assert float(mine.loss.detach()) == pytest.approx(float(loss.detach()), rel=1e-3)


def clean_known(model: Transformer, one: Sample) -> Any:
    return known_rows(model, trunk_of(one))


def naive_loss(
    one: Sample, found: list[Cut], clean: Tensor, slots: Tensor, head: Tensor, width: int, ahead: bool, objective: str
) -> tuple[Tensor, float, int]:
    every = [*one.ids.tolist(), *(token for answer in one.answers for token in answer.ids.tolist())]
    forced = [False] * len(one.ids) + [bool(flag) for answer in one.answers for flag in answer.forced]
    total, weights, accepted = torch.zeros(()), 0.0, 0
    for cut, rows in zip(found, slots.split(width), strict=True):
        reach, leading = 1.0, True
        for at in range(cut.slots):
            q = torch.softmax(rows[at if ahead else at + 1] @ head.T, -1)
            p = torch.softmax(clean[cut.first + at] @ head.T, -1)
            answer = cut.first + at + 1
            wanted = every[answer] if answer >= len(one.ids) else int(p.argmax())
            if forced[answer]:
                continue
            if int(p.argmax()) != wanted:
                p = F.one_hot(torch.tensor(wanted), len(p)).float()
            loss = {
                "ce": -q[wanted].log(), "kl": (p * (p.clamp_min(1e-9).log() - q.log())).sum(),
                "tv": 0.5 * (p - q).abs().sum(),
            }[objective]  # fmt: skip
            weight = max(reach, FLOOR)
            total, weights = total + weight * loss, weights + weight
            leading = leading and int(q.argmax()) == wanted
            accepted += leading
            reach *= float(q[wanted].detach())
    return total, weights, accepted
