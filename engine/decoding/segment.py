"""The interface between a mode and the model: `Segment` out, `Reply` back.

Knows token ids, positions, rows of logits and the gate that restricts what is chosen from them. Does not know the
model, the cache or the other requests of the pass.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from torch import Tensor

from trimode.kernels.ops import SampledTokens as SampledTokens
from trimode.kernels.ops import int64_tensor, to_device

from .gate import Gate
from .sampling import Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Rows next to the trunk, at the positions after its first `after` tokens; they are read once and never cached.

    Each row sees the cache, those `after` trunk tokens, and the branch: all of it, or with `causal` up to itself.
    `read`: trailing rows whose logits are needed; each predicts its own position, or with `ahead` the next one (None:
    with `causal`, as known tokens do). `adapter`: the rows take the draft adapter.
    """

    tokens: tuple[int, ...]
    read: int
    after: int = 0
    causal: bool = False
    ahead: bool | None = None
    adapter: bool = False

    @property
    def shift(self) -> int:
        """Positions from a row to the one that it predicts."""
        return int(self.causal if self.ahead is None else self.ahead)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One request's part of a pass, over its first `start` cache entries; entries after those are dropped.

    `trunk` tokens are at positions start, start + 1, ...; they run with base weights, and their keys and values stay in
    the cache. A trunk row sees up to the end of its aligned block of `block` positions, counted from position 0, and
    never past the trunk's end; with `block` 1 it sees up to itself, which is causal. `read`: trailing trunk rows whose
    logits are needed; each predicts the next position. `choose`: one row is read, and the mode needs only its token.

    `constrained`: a gate restricts what is chosen. The pass samples over the whole vocabulary, without the mask,
    because that token, if allowed, is also the best allowed token. With top-k or top-p, which rank allowed tokens only,
    sampling waits until the mask is known.

    `then`: the pass that verifies what this one drafts. Its trunk ends with `then.open` placeholders for the first
    tokens that this pass samples. It may run with this pass, before the host has seen the draft; if not, the mode asks.
    """

    start: int
    trunk: tuple[int, ...] = ()
    branches: tuple[Branch, ...] = ()
    read: int = 0
    prefill: bool = False
    block: int = 1
    choose: bool = False
    constrained: bool = False
    open: int = 0
    then: Segment | None = None

    @property
    def rows(self) -> int:
        return len(self.trunk) + sum([len(branch.tokens) for branch in self.branches])

    @property
    def positions(self) -> list[int]:
        """Positions of the tokens that the read rows predict: the trunk's, then each branch's."""
        after = self.start + len(self.trunk) + 1
        found = list(range(after - self.read, after))
        for branch in self.branches:
            after = self.start + branch.after + len(branch.tokens) + branch.shift
            found += range(after - branch.read, after)
        return found


class Logits:
    """Some rows of logits, [R, V], of positions first, first + 1, ..., and the one rule that chooses tokens from them.

    `sampled`: what the pass has chosen already; without confidence if that was not asked for.
    """

    rows: Tensor
    first: int
    sampler: Sampler

    def __init__(self, rows: Tensor, first: int, sampler: Sampler, sampled: SampledTokens | None = None) -> None:
        self.rows, self.first, self.sampler, self.sampled = rows, first, sampler, sampled

    def after(self, count: int) -> Logits:
        """Returns the rows after the first `count`."""
        left = None if self.sampled is None else part_of(self.sampled, count)
        return Logits(self.rows[count:], self.first + count, self.sampler, left)

    def upto(self, count: int) -> Logits:
        """Returns the first `count` rows."""
        some = None if self.sampled is None else part_of(self.sampled, 0, count)
        return Logits(self.rows[:count], self.first, self.sampler, some)

    def sample(self) -> SampledTokens:
        """Returns the chosen token of each row, over the whole vocabulary."""
        if self.sampled is None:
            self.sampled = self._sample(self.rows, range(self.rows.shape[0]), ())
        return self.sampled

    def sample_unmasked(self, constrained: bool) -> SampledTokens | None:
        """Returns the chosen token of each row, over the whole vocabulary; None if filters need the mask first."""
        return None if constrained and self.sampler.filters else self.sample()

    def sample_gated(self, gate: Gate, row: int = 0) -> SampledTokens:
        """Returns the chosen token of one row under `gate`, where nothing is forced; most often no mask is needed."""
        unmasked = self.sample_unmasked(gate.constrains)
        if unmasked is not None and gate.allows(unmasked.tokens[row]):
            return part_of(unmasked, row, row + 1)
        return self.sample_masked(gate.mask(), [row])

    def sample_masked(self, allowed: Tensor | None, rows: Sequence[int] = (0,)) -> SampledTokens:
        """Returns the chosen token of some rows, each under the same grammar mask [W], None for all tokens."""
        # A single row, the common case, is a view.
        some = (
            self.rows[rows[0]][None] if len(rows) == 1 else self.rows[to_device(int64_tensor(rows), self.rows.device)]
        )
        return self._sample(some, rows, () if allowed is None else [allowed] * len(rows))

    def _sample(self, logits: Tensor, rows: Sequence[int], masks: Sequence[Tensor | None]) -> SampledTokens:
        choice = self.sampler.choice(0, [self.first + row for row in rows], masks)
        return self.sampler.kernels.choose(logits, [choice])[0]

    def row_copy(self, row: int) -> Logits:
        """Returns a copy of one row, which stays valid after the next pass."""
        return Logits(self.rows[row : row + 1].clone(), self.first + row, self.sampler)

    def logprobs(self, tokens: Sequence[int], rows: Sequence[int] | None = None) -> Tensor:
        """Returns log-probabilities [len(tokens)], in nats, fp64: one token per row (all or `rows`), temperature 1."""
        scores = self.distribution(rows)
        return scores[range(len(tokens)), list(tokens)]

    def distribution(self, rows: Sequence[int] | None = None) -> Tensor:
        """Returns log-probabilities [R, V], in nats, fp64: of all rows or `rows`, temperature 1; banned ids -inf."""
        chosen = self.rows if rows is None else self.rows[list(rows)]
        return chosen.double().masked_fill(self.sampler.banned, float("-inf")).log_softmax(-1)


def part_of(sampled: SampledTokens, start: int, stop: int | None = None) -> SampledTokens:
    """Returns the sampled tokens of rows `start` to `stop`."""
    return SampledTokens(sampled.tokens[start:stop], sampled.confidence[start:stop])


@dataclass(frozen=True, slots=True)
class Reply:
    """Logits of the trunk's read rows, and of each branch's.

    Logits are valid until the next pass, which may overwrite them: `Logits.row_copy` copies one row for later.
    `then`: the reply of the segment's `then`; None if it has not run with this pass.
    """

    trunk: Logits
    branches: tuple[Logits, ...] = ()
    then: Reply | None = None


def reply(segment: Segment, rows: Tensor, sampled: SampledTokens | None, sampler: Sampler) -> Reply:
    """Splits the read rows [R, V] of one segment into its trunk and branches.

    `sampled`: the tokens that the pass has chosen.
    """
    at, found, positions, rows = 0, list[Logits](), segment.positions, sampler.bias(rows)
    for read in (segment.read, *[branch.read for branch in segment.branches]):
        part = None if sampled is None else part_of(sampled, at, at + read)
        # Without branches all rows are the trunk's.
        some = rows[at : at + read] if segment.branches else rows
        found.append(Logits(some, positions[at] if read else -1, sampler, part))
        at += read
    trunk, *branches = found
    return Reply(trunk, tuple(branches))


Passes = Generator[Segment, Reply, None]
"""Type of a mode: a generator that yields the passes it needs and receives their logits."""
