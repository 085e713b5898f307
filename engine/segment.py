"""What a mode asks of the model and what it gets: `Segment` out, `Reply` back.

Knows token ids, positions and rows of logits. Does not know the model, the cache or the other requests of the pass.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from torch import Tensor

from trimode.kernels.ops import Masks, integers, sent
from trimode.kernels.ops import Picks as Picks

from .sampling import Allowed, Sampler


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
    each predicts the next position, under the grammar masks that `allowed` gives of them (None: all tokens). `choose`:
    one row is read, and the mode wants its token and nothing else, under the mask that this gives. Masks are asked as
    late as the kernels can, so that a device works meanwhile.
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
    choose: Allowed | None = None
    allowed: Masks | None = None
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

    @property
    def masks(self) -> Masks | None:
        """Gives the mask of each read row; None where no row has one."""
        beside, choose, allowed = sum([branch.read for branch in self.branches]), self.choose, self.allowed
        if choose is not None:
            return lambda: [choose()]
        return None if allowed is None else lambda: [*allowed(), *[None] * beside]


class Logits:
    """Some rows of logits, [R, V], of positions first, first + 1, ...; the one rule that chooses tokens is here.

    `picks`: what the pass has chosen of them already, under the masks that `allowed` gives (None: none).
    """

    def __init__(
        self,
        rows: Tensor,
        first: int,
        sampler: Sampler,
        picks: Picks | None = None,
        allowed: Masks | None = None,
    ) -> None:
        self.rows, self.first, self.sampler, self.picks, self.allowed = rows, first, sampler, picks, allowed

    def after(self, count: int) -> Logits:
        """The same without the first `count` rows; of rows without masks."""
        assert self.allowed is None
        left = None if self.picks is None else part_of(self.picks, count)
        return Logits(self.rows[count:], self.first + count, self.sampler, left)

    def upto(self, count: int) -> Logits:
        """The first `count` rows alone; of rows without masks."""
        assert self.allowed is None
        some = None if self.picks is None else part_of(self.picks, 0, count)
        return Logits(self.rows[:count], self.first, self.sampler, some)

    def decided(self) -> Picks:
        """The chosen token of each row under the masks that its segment gave: what the pass chose, or what is now."""
        if self.picks is not None and len(self.picks.confidence) == len(self.picks.tokens):
            return self.picks
        return self._pick(self.rows, range(self.rows.shape[0]), self.allowed)

    def pick(self, allowed: Sequence[Tensor | None] = (), rows: Sequence[int] | None = None) -> Picks:
        """The chosen token of each row (all, or `rows`); `allowed`: their grammar masks [W], None for all tokens."""
        if rows is None and not allowed and self.allowed is None:
            return self.decided()
        at = range(self.rows.shape[0]) if rows is None else rows
        return self._pick(self.rows if rows is None else self._taken(rows), at, lambda: allowed)

    def _pick(self, logits: Tensor, rows: Sequence[int], allowed: Masks | None) -> Picks:
        choice = self.sampler.choice(0, [self.first + row for row in rows], allowed)
        return self.sampler.kernels.choose(logits, [choice])[0]

    def _taken(self, rows: Sequence[int]) -> Tensor:
        """Some rows; a single one, the common case, as a view."""
        return self.rows[rows[0]][None] if len(rows) == 1 else self.rows[sent(integers(rows), self.rows.device)]

    def kept(self, row: int) -> Logits:
        """One row of those without masks, copied, so that it outlives the pass."""
        return Logits(self.rows[row : row + 1].clone(), self.first + row, self.sampler)

    def best(self, allowed: Tensor | None, row: int = -1) -> int:
        """The chosen token of one row under one mask [W]."""
        row %= self.rows.shape[0]
        return self.pick([allowed], [row]).tokens[0]

    def logprobs(self, tokens: Sequence[int], rows: Sequence[int] | None = None) -> Tensor:
        """Natural log-probability [len(tokens)], fp64, of a token in each row (all, or `rows`), at temperature 1."""
        chosen = self.rows if rows is None else self.rows[list(rows)]
        scores = chosen.double().masked_fill(self.sampler.banned, float("-inf")).log_softmax(-1)
        return scores[range(len(tokens)), list(tokens)]


def part_of(picks: Picks, start: int, stop: int | None = None) -> Picks:
    return Picks(picks.tokens[start:stop], picks.confidence[start:stop])


@dataclass(frozen=True, slots=True)
class Reply:
    """Logits of the trunk's read rows, and of each branch's; the token that the segment wanted chosen, or -1.

    Logits stand until the next pass, which may overwrite them: `Logits.kept` copies one row for later.
    `then`: what the pass of the segment's `then` gave; None where it has not come with this one.
    """

    trunk: Logits
    branches: tuple[Logits, ...] = ()
    token: int = -1
    then: Reply | None = None


def reply(segment: Segment, rows: Tensor, picks: Picks | None, sampler: Sampler) -> Reply:
    """Deals the read rows [R, V] of one segment out to its trunk and branches. `picks`: what the pass has chosen."""
    at, found, positions = 0, list[Logits](), segment.positions
    for read in (segment.read, *[branch.read for branch in segment.branches]):
        part = None if picks is None else part_of(picks, at, at + read)
        # A trunk that stands alone keeps its rows as they are.
        some = rows[at : at + read] if segment.branches else rows
        found.append(Logits(some, positions[at] if read else -1, sampler, part, None if found else segment.allowed))
        at += read
    trunk, *branches = found
    token = -1
    if segment.choose is not None:
        token = trunk.best(segment.choose()) if picks is None else picks.tokens[-1]
    return Reply(trunk, tuple(branches), token)


Passes = Generator[Segment, Reply, None]
"""A mode: it yields the passes it needs and receives their logits."""
