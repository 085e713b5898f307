"""What a mode asks of the model and what it gets: `Segment` out, `Reply` back.

Knows token ids, positions and rows of logits. Does not know the model, the cache or the other requests of the pass.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from torch import Tensor

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
    each predicts the next position. `choose`: the token that the last trunk row predicts is wanted, under the grammar
    mask [W] (None: all) that this gives; it is asked as late as the kernels can, so that a device works meanwhile.
    """

    start: int
    trunk: tuple[int, ...] = ()
    branches: tuple[Branch, ...] = ()
    read: int = 0
    prefill: bool = False
    block: int = 1
    choose: Allowed | None = None

    @property
    def rows(self) -> int:
        return len(self.trunk) + sum([len(branch.tokens) for branch in self.branches])


@dataclass(frozen=True, slots=True)
class Picks:
    """A token a row, and its probability at temperature 1 among the tokens that the row allows."""

    tokens: list[int]
    confidence: list[float]


class Logits:
    """Some rows of logits, [R, V], of positions first, first + 1, ...; the one rule that chooses tokens is here."""

    def __init__(self, rows: Tensor, first: int, sampler: Sampler) -> None:
        self.rows, self.first, self.sampler = rows, first, sampler

    def after(self, count: int) -> Logits:
        """The same without the first `count` rows."""
        return Logits(self.rows[count:], self.first + count, self.sampler)

    def pick(self, allowed: Tensor | None = None, rows: Sequence[int] | None = None) -> Picks:
        """The chosen token of each row (all, or `rows`); `allowed` [rows, W] holds their grammar masks."""
        at = range(self.rows.shape[0]) if rows is None else rows
        logits = self.rows if rows is None else self._taken(rows)
        settings = self.sampler.settings
        tokens, confidence = self.sampler.pick(
            logits,
            self.sampler.banned,
            None if allowed is None else allowed.to(logits.device),
            self.sampler.noise([self.first + row for row in at]),
            settings.temperature,
            settings.top_k,
            settings.top_p,
        )
        return Picks(tokens.tolist(), confidence.tolist())

    def _taken(self, rows: Sequence[int]) -> Tensor:
        """Some rows; a single one, the common case, as a view."""
        return self.rows[rows[0]][None] if len(rows) == 1 else self.rows[list(rows)]

    def best(self, allowed: Tensor | None, row: int = -1) -> int:
        """The chosen token of one row under one mask [W]."""
        row %= self.rows.shape[0]
        return self.pick(None if allowed is None else allowed[None], [row]).tokens[0]

    def logprobs(self, tokens: Sequence[int], rows: Sequence[int] | None = None) -> Tensor:
        """Natural log-probability [len(tokens)], fp64, of a token in each row (all, or `rows`), at temperature 1."""
        chosen = self.rows if rows is None else self.rows[list(rows)]
        scores = chosen.double().masked_fill(self.sampler.banned, float("-inf")).log_softmax(-1)
        return scores[range(len(tokens)), list(tokens)]


@dataclass(frozen=True, slots=True)
class Reply:
    """Logits of the trunk's read rows, and of each branch's; the token that the segment wanted chosen, or -1."""

    trunk: Logits
    branches: tuple[Logits, ...] = ()
    token: int = -1


def reply(segment: Segment, rows: Tensor, token: int | None, sampler: Sampler) -> Reply:
    """Deals the read rows [R, V] of one segment out to its trunk and branches. `token`: what the pass has chosen."""
    first, at = segment.start + len(segment.trunk) - segment.read + 1, segment.read
    trunk = Logits(rows[:at] if segment.branches else rows, first, sampler)
    branches = []
    for branch in segment.branches:
        first = segment.start + branch.after + len(branch.tokens) - branch.read + branch.causal
        branches.append(Logits(rows[at : at + branch.read], first, sampler))
        at += branch.read
    if segment.choose and token is None:
        token = trunk.best(segment.choose())
    return Reply(trunk, tuple(branches), -1 if token is None else token)


Passes = Generator[Segment, Reply, None]
"""A mode: it yields the passes it needs and receives their logits."""
