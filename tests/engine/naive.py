"""The decoding modes without cache, scheduler, gate or rounds: every pass is one forward over the whole sequence.

Written from the algorithms' description alone, in the plainest way; what the engine must reproduce id for id and pass
for pass. A constraint, where taken, is asked for its mask before each token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import naive_lookup
import torch
import torch.nn.functional as F
from torch import Tensor

from trimode.engine.constraint import Constraint
from trimode.engine.drafting import Drafting
from trimode.engine.models.model import Transformer
from trimode.engine.request import Sampling
from trimode.kernels.reference import torch_ops


@dataclass
class Naive:
    """One model, one request. `out` are its output ids, `passes` its forward passes, prefill left out."""

    model: Transformer
    prompt: Sequence[int]
    sampling: Sampling
    max_tokens: int
    usable: int
    ends: Sequence[int]
    out: list[int] = field(default_factory=list[int])
    passes: int = 0
    forced: int = 0

    @property
    def finished(self) -> bool:
        return len(self.out) >= self.max_tokens or (bool(self.out) and self.out[-1] in self.ends)

    @property
    def remaining(self) -> int:
        return self.max_tokens - len(self.out)

    def forward(
        self, context: Sequence[int], block: Sequence[int] = (), adapter: bool = False, causal: bool = False
    ) -> Tensor:
        """Logits of all rows: `context` causal, `block` after it seeing everything, unless all is `causal`; the adapter
        acts on the block."""
        size, start = len(context) + len(block), len(context)
        seen = torch.ones(size, size, dtype=torch.bool).tril()
        seen[start:] |= not causal
        adapted = torch.arange(size) >= start if adapter else None
        return self.pass_over([*context, *block], list(range(size)), seen, adapted)

    def pass_over(
        self, tokens: Sequence[int], positions: Sequence[int], seen: Tensor, adapted: Tensor | None
    ) -> Tensor:
        """Logits of all rows; row i sees the rows j with seen[i, j]."""

        def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            repeat = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
            q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(0, 1)

        with torch.no_grad():
            hidden = self.model(torch.tensor(tokens), torch.tensor(positions), attend, adapted)
            return self.model.head(hidden)

    def choose(self, logits: Tensor, position: int, allowed: Sequence[int] | None = None) -> int:
        """The token that one row of logits gives for `position`."""
        scores = logits.clone()
        for token in range(len(scores)):
            if token >= self.usable or token == self.model.config.mask_id:
                scores[token] = -torch.inf
            if allowed is not None and token not in allowed:
                scores[token] = -torch.inf
        if self.sampling.temperature == 0:
            return int(scores.argmax())
        scores = scores / self.sampling.temperature
        ranked = sorted(range(len(scores)), key=lambda token: -float(scores[token]))
        kept = ranked[: self.sampling.top_k] if self.sampling.top_k else ranked
        chance = torch.softmax(scores[kept], 0)
        nucleus = [token for at, token in enumerate(kept) if at == 0 or float(chance[:at].sum()) < self.sampling.top_p]
        noise = torch_ops.gumbel(self.sampling.seed, torch.tensor([position]), len(scores))[0]
        return max(nucleus, key=lambda token: float(scores[token] + noise[token]))

    def emit(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if not self.finished:
                self.out.append(token)

    def step(self, allowed: Sequence[int] | None = None, closable: Constraint | None = None) -> int:
        """One causal pass for one token; a completion's token if `closable` could not end in time after it."""
        context = [*self.prompt, *self.out]
        token = self.choose(self.forward(context)[-1], len(context), allowed)
        if closable is not None and token not in self.ends:
            ahead = closable.fork()
            ahead.advance([token])
            if ahead.completion(self.remaining - 1) is None:
                completion = closable.completion(self.remaining)
                assert completion is not None, "a completion that fits is known at all times"
                self.forced += token != completion[0]
                token = completion[0]
        self.emit([token])
        return token

    def ar(self, constraint: Constraint | None = None) -> None:
        prefill = True
        closable = constraint if constraint is not None and constraint.completion(self.max_tokens) is not None else None
        while not self.finished:
            allowed = None if constraint is None else bits(constraint.mask())
            if allowed is not None and len(allowed) == 1:
                self.emit(allowed)
                self.forced += 1
            else:
                self.step(allowed, closable)
                self.passes += not prefill
                prefill = False
            if constraint is not None and self.out[-1] not in self.ends:
                constraint.advance(self.out[-1:])

    @property
    def drafting(self) -> Drafting:
        return self.model.config.drafting

    def slots(self, first: int, count: int) -> list[int]:
        """What stands in the slots of a draft from position `first` on."""
        return list(self.drafting.noise.ids(self.sampling.seed, range(first, first + count)))

    def exact_first(self, block_length: int) -> None:
        """`linear_spec` whose drafting pass decides a token: the last known row chooses it, and the slots follow it."""
        prefill = True
        while not self.finished:
            known = [*self.prompt, *self.out]
            if self.remaining <= 2:
                self.step()
                self.passes += not prefill
            else:
                token, draft = self.draft_after(known, block_length)
                self.passes += not prefill
                self.emit([token])
                if not self.finished:
                    self.verify([*known, token], draft[: self.remaining - 1])
            prefill = False

    def verify(self, known: Sequence[int], draft: Sequence[int]) -> None:
        """One causal pass over a draft: emits the tokens that it chooses too, and the next one."""
        logits = self.forward([*known, *draft])[len(known) - 1 :]
        chosen = [self.choose(row, len(known) + at) for at, row in enumerate(logits)]
        accepted = 0
        while accepted < len(draft) and draft[accepted] == chosen[accepted]:
            accepted += 1
        self.passes += 1
        self.emit(chosen[: accepted + 1])

    def draft_after(self, known: Sequence[int], block_length: int) -> tuple[int, list[int]]:
        """The token that the last known row chooses, and a draft of those after it."""
        count = block_length - self.drafting.ahead
        slots, size = self.slots(len(known), count), len(known)
        logits = self.forward(known, slots, self.model.adapter is not None, self.drafting.causal)
        rows = logits[size + count - (block_length - 1) :]
        return self.choose(logits[size - 1], size), [self.choose(row, size + 1 + at) for at, row in enumerate(rows)]

    def linear_spec(self, block_length: int) -> None:
        self.step()
        while not self.finished:
            if self.remaining == 1:
                self.step()
                self.passes += 1
                return
            known = [*self.prompt, *self.out]
            self.passes += 1
            self.verify(known, self.draft(known, block_length)[: self.remaining - 1])

    def draft(self, known: Sequence[int], block_length: int) -> list[int]:
        """Tokens for the slots after the last known one, which is the block's seed."""
        ahead = self.drafting.ahead
        block = [known[-1], *self.slots(len(known), block_length - 1 - ahead)]
        logits = self.forward(known[:-1], block, self.model.adapter is not None, self.drafting.causal)
        rows = logits[len(known) - ahead :]
        return [self.choose(row, len(known) + at) for at, row in enumerate(rows)]

    def quadratic_spec(self, block_length: int) -> None:
        guess: list[int] = []
        prefill = True
        while not self.finished:
            known, draft = [*self.prompt, *self.out], guess[: self.remaining - 1]
            end = next((at for at, token in enumerate(draft) if token in self.ends), len(draft))
            causal, branches = self.fan(known, draft[:end], block_length)
            chosen = [self.choose(row, len(known) + at) for at, row in enumerate(causal)]
            accepted = 0
            while accepted < end and draft[accepted] == chosen[accepted]:
                accepted += 1
            self.emit(chosen[: accepted + 1])
            first = len(known) + accepted + 1
            rows = branches[accepted][len(branches[accepted]) - (block_length - 1) :]
            guess = [self.choose(row, first + at) for at, row in enumerate(rows)]
            self.passes += not prefill
            prefill = False

    def fan(self, known: Sequence[int], draft: Sequence[int], block_length: int) -> tuple[Tensor, list[Tensor]]:
        """Returns the logits of one pass over the draft and the slots behind each of its prefixes."""
        trunk, count = [*known, *draft], block_length - self.drafting.ahead
        tokens, positions = list(trunk), list(range(len(trunk)))
        for accepted in range(len(draft) + 1):
            tokens += self.slots(len(known) + accepted, count)
            positions += range(len(known) + accepted, len(known) + accepted + count)
        seen = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
        for row in range(len(trunk)):
            seen[row, : row + 1] = True
        for accepted in range(len(draft) + 1):
            own = slice(len(trunk) + accepted * count, len(trunk) + (accepted + 1) * count)
            seen[own, : len(known) + accepted] = True
            seen[own, own] = torch.ones(count, count).tril().bool() if self.drafting.causal else True
        adapted = torch.arange(len(tokens)) >= len(trunk) if self.model.adapter is not None else None
        logits = self.pass_over(tokens, positions, seen, adapted)
        return logits[len(known) - 1 : len(trunk)], list(logits[len(trunk) :].split(count))

    def lookup_spec(self, block_length: int, min_match: int, runs: Sequence[Sequence[int]] = ()) -> None:
        prefill = True
        while not self.finished:
            known = [*self.prompt, *self.out]
            limit = min(block_length, self.remaining) - 1
            draft = naive_lookup.copied([*runs, known], min_match, limit, self.ends)
            logits = self.forward([*known, *draft])[len(known) - 1 :]
            chosen = [self.choose(row, len(known) + at) for at, row in enumerate(logits)]
            accepted = 0
            while accepted < len(draft) and draft[accepted] == chosen[accepted]:
                accepted += 1
            self.emit(chosen[: accepted + 1])
            self.passes += not prefill
            prefill = False

    def diffusion(self, block_length: int, threshold: float) -> None:
        """With selection "text_first"; vendor.py has the other."""
        self.step()
        while not self.finished:
            slots: list[int | None] = [None] * (block_length - 1)
            while not self.settled(slots):
                self.denoise(slots, threshold)
                self.passes += 1
            self.emit(prefix(slots))
            if not self.finished:
                self.step()
                self.passes += 1

    def settled(self, slots: Sequence[int | None]) -> bool:
        ready = prefix(slots)
        return len(ready) == len(slots) or len(ready) >= self.remaining or any(token in self.ends for token in ready)

    def denoise(self, slots: list[int | None], threshold: float) -> None:
        known = [*self.prompt, *self.out]
        filled = [self.model.config.mask_id if slot is None else slot for slot in slots]
        if self.drafting.fills:
            logits = self.forward(known, filled, adapter=True)[len(known) :]
        else:
            logits = self.forward(known[:-1], [known[-1], *filled])[len(known) :]
        end = next((at for at, slot in enumerate(slots) if slot in self.ends), len(slots))
        open_slots = [at for at, slot in enumerate(slots) if slot is None and at < end]
        tokens = {at: self.choose(logits[at], len(known) + at) for at in open_slots}
        confidence = {at: float(torch.softmax(logits[at], 0)[tokens[at]]) for at in open_slots}
        no_ends = [at for at in open_slots if tokens[at] not in self.ends]
        best = max(no_ends, key=lambda at: confidence[at]) if no_ends else open_slots[0]
        for at in open_slots:
            if at == best or confidence[at] >= threshold:
                slots[at] = tokens[at]


def prefix(slots: Sequence[int | None]) -> list[int]:
    """The filled slots before the first masked one."""
    ready: list[int] = []
    for slot in slots:
        if slot is None:
            break
        ready.append(slot)
    return ready


def bits(mask: Tensor) -> list[int]:
    """The tokens whose bit is set, one by one."""
    return [32 * at + bit for at, word in enumerate(mask.tolist()) for bit in range(32) if word >> bit & 1]
