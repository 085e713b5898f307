"""What a mode asks of the model and what it gets: `Segment` out, `Reply` back.

Knows token ids, positions, rows of logits and the gate that judges what is chosen of them. Does not know the model, the
cache or the other requests of the pass.
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
    """Rows beside the trunk, at the positions after its first `after` tokens; they are read once and never cached.

    Each row sees the cache, those `after` trunk tokens, and the branch: all of it, or with `causal` up to itself.
    `read`: trailing rows whose logits are wanted; each predicts its own position, or with `causal` the next one.
    """

    tokens: tuple[int, ...]
    read: int
    after: int = 0
    causal: bool = False
    adapter: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One request's part of a pass, over its first `start` cache entries; entries after those are dropped.

    `trunk` tokens stand at positions start, start + 1, ...; they run with base weights, and their keys and values stay
    in the cache. A trunk row sees up to the end of its aligned block of `block` positions, counted from position 0, and
    never past the trunk's end: at 1 up to itself, which is causal. `read`: trailing trunk rows whose logits are wanted;
    each predicts the next position. `choose`: one row is read, and the mode wants its token and nothing else. `held`: a
    gate judges what is chosen. The pass chooses without it, because the best of all tokens, where it is allowed, is the
    best of those that are; top-k and top-p count only what is allowed, so with them the choice waits for the gate.
    `then`: the pass that verifies what this one drafts, its last `then.read` - 1 trunk tokens left open for the first
    tokens picked in the branch. It may come with this pass, before anybody has seen the draft; where it does not, the
    mode asks for it.
    """

    start: int
    trunk: tuple[int, ...] = ()
    branches: tuple[Branch, ...] = ()
    read: int = 0
    prefill: bool = False
    block: int = 1
    choose: bool = False
    constrained: bool = False
    then: Segment | None = None

    @property
    def rows(self) -> int:
        return len(self.trunk) + sum([len(branch.tokens) for branch in self.branches])

    @property
    def positions(self) -> list[int]:
        """Where the tokens stand that the read rows predict: the trunk's, then each branch's."""
        after = self.start + len(self.trunk) + 1
        found = list(range(after - self.read, after))
        for branch in self.branches:
            after = self.start + branch.after + len(branch.tokens) + branch.causal
            found += range(after - branch.read, after)
        return found


class Logits:
    """Some rows of logits, [R, V], of positions first, first + 1, ...; the one rule that chooses tokens is here.

    `sampled`: what the pass has chosen of them already; without confidence where that was not asked for.
    """

    def __init__(self, rows: Tensor, first: int, sampler: Sampler, sampled: SampledTokens | None = None) -> None:
        self.rows, self.first, self.sampler, self.sampled = rows, first, sampler, sampled

    def after(self, count: int) -> Logits:
        """The same without the first `count` rows."""
        left = None if self.sampled is None else part_of(self.sampled, count)
        return Logits(self.rows[count:], self.first + count, self.sampler, left)

    def upto(self, count: int) -> Logits:
        """The first `count` rows alone."""
        some = None if self.sampled is None else part_of(self.sampled, 0, count)
        return Logits(self.rows[:count], self.first, self.sampler, some)

    def sample(self) -> SampledTokens:
        """The chosen token of each row, of all tokens."""
        if self.sampled is None:
            self.sampled = self._sample(self.rows, range(self.rows.shape[0]), ())
        return self.sampled

    def sample_unmasked(self, constrained: bool) -> SampledTokens | None:
        """The chosen token of each row, of all tokens; None where filters have to know what a gate allows."""
        return None if constrained and self.sampler.filters else self.sample()

    def sample_gated(self, gate: Gate, row: int = 0) -> SampledTokens:
        """The chosen token of one row under what `gate` allows, where nothing is forced: mostly no mask is needed."""
        free = self.sample_unmasked(gate.constrains)
        if free is not None and gate.allows(free.tokens[row]):
            return part_of(free, row, row + 1)
        return self.sample_masked(gate.mask(), [row])

    def sample_masked(self, allowed: Tensor | None, rows: Sequence[int] = (0,)) -> SampledTokens:
        """The chosen token of some rows, each under the same grammar mask [W], None for all tokens."""
        # A single one, the common case, as a view.
        some = (
            self.rows[rows[0]][None] if len(rows) == 1 else self.rows[to_device(int64_tensor(rows), self.rows.device)]
        )
        return self._sample(some, rows, () if allowed is None else [allowed] * len(rows))

    def _sample(self, logits: Tensor, rows: Sequence[int], masks: Sequence[Tensor | None]) -> SampledTokens:
        choice = self.sampler.choice(0, [self.first + row for row in rows], masks)
        return self.sampler.kernels.choose(logits, [choice])[0]

    def row_copy(self, row: int) -> Logits:
        """One row, copied, so that it outlives the pass."""
        return Logits(self.rows[row : row + 1].clone(), self.first + row, self.sampler)

    def logprobs(self, tokens: Sequence[int], rows: Sequence[int] | None = None) -> Tensor:
        """Natural log-probability [len(tokens)], fp64, of a token in each row (all, or `rows`), at temperature 1."""
        chosen = self.rows if rows is None else self.rows[list(rows)]
        scores = chosen.double().masked_fill(self.sampler.banned, float("-inf")).log_softmax(-1)
        return scores[range(len(tokens)), list(tokens)]


def part_of(sampled: SampledTokens, start: int, stop: int | None = None) -> SampledTokens:
    return SampledTokens(sampled.tokens[start:stop], sampled.confidence[start:stop])


@dataclass(frozen=True, slots=True)
class Reply:
    """Logits of the trunk's read rows, and of each branch's.

    Logits stand until the next pass, which may overwrite them: `Logits.kept` copies one row for later.
    `then`: what the pass of the segment's `then` gave; None where it has not come with this one.
    """

    trunk: Logits
    branches: tuple[Logits, ...] = ()
    then: Reply | None = None


def reply(segment: Segment, rows: Tensor, sampled: SampledTokens | None, sampler: Sampler) -> Reply:
    """Deals the read rows [R, V] of one segment out to its trunk and branches. `sampled`: what the pass has chosen."""
    at, found, positions = 0, list[Logits](), segment.positions
    for read in (segment.read, *[branch.read for branch in segment.branches]):
        part = None if sampled is None else part_of(sampled, at, at + read)
        # A trunk that stands alone keeps its rows as they are.
        some = rows[at : at + read] if segment.branches else rows
        found.append(Logits(some, positions[at] if read else -1, sampler, part))
        at += read
    trunk, *branches = found
    return Reply(trunk, tuple(branches))


Passes = Generator[Segment, Reply, None]
"""A mode: it yields the passes it needs and receives their logits."""
