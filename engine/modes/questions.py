"""Questions about one prompt: the likelihood of each one's candidates, from as few rows as branches allow.

Knows token ids and log-probabilities. Does not know the model. The prompt is read once. A question is a causal branch
after it, so questions do not see each other; its last row has the probabilities of all candidates of one token. Longer
candidates need rows of their own: the question's rows are repeated for each beginning (a candidate without its last
token) that is not the beginning of another. Many questions take several passes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from torch import Tensor

from ..decoding.segment import Branch, Reply, Segment
from ..decoding.state import CacheState
from ..scoring import Question
from .choice import ROWS

Ids = tuple[int, ...]
END: Final = -1
"""Any end token, at the end of a candidate."""


@dataclass(frozen=True, slots=True)
class Path:
    """A branch: the tokens of question `number`, and after them the `beginning` of candidates."""

    number: int
    question: Ids
    beginning: Ids

    @property
    def rows(self) -> int:
        return len(self.question) + len(self.beginning)

    def branch(self, after: int) -> Branch:
        """Returns the branch, of which the rows from the question's last one on are read."""
        return Branch(
            tokens=self.question + self.beginning, read=len(self.beginning) + 1, after=after, causal=True
        )  # row i of these predicts the token after `beginning[:i]`


def score(
    context: CacheState, questions: Sequence[Question], ends: Sequence[int]
) -> Generator[Segment, Reply, tuple[tuple[float, ...], ...]]:
    """Returns for each question the log-probability, in nats, of each candidate."""
    yield from context.prefill()
    wanted = [distinguishable(question.candidates) for question in questions]
    found = [dict[Ids, float]() for _ in questions]
    for pack in packs(paths(questions, wanted)):
        reply = yield _segment(context, pack)
        context.mark_cached(len(context.pending), [])
        for path, logits in zip(pack, reply.branches, strict=True):
            rows = logits.distribution()
            for ids in wanted[path.number]:
                if path.beginning[: len(ids) - 1] == ids[:-1]:
                    found[path.number][ids] = likelihood(rows, ids, ends)
    return tuple(tuple(scores[ids] for ids in own) for scores, own in zip(found, wanted, strict=True))


def distinguishable(candidates: Sequence[Ids]) -> list[Ids]:
    """Returns the candidates, each with an end if one of them begins another, because their shares would overlap."""
    ordered = sorted(candidates)  # a candidate comes right before those that it begins
    overlap = any(longer[: len(shorter)] == shorter for shorter, longer in pairwise(ordered))
    return [(*ids, END) for ids in candidates] if overlap else list(candidates)


def paths(questions: Sequence[Question], wanted: Sequence[Sequence[Ids]]) -> list[Path]:
    """Returns the branches that have a row for each token of each candidate: the fewest, in order of questions."""
    return [
        Path(number, question.tokens, beginning)
        for number, question in enumerate(questions)
        for beginning in longest(ids[:-1] for ids in wanted[number])
    ]


def longest(beginnings: Iterable[Ids]) -> list[Ids]:
    """Returns the sequences that begin no other one, each once."""
    ordered = sorted(set(beginnings))
    inside = {shorter for shorter, longer in pairwise(ordered) if longer[: len(shorter)] == shorter}
    return [ids for ids in ordered if ids not in inside]


def packs(found: Sequence[Path]) -> list[list[Path]]:
    """Splits branches, in order, into passes of at most ROWS rows; a longer branch has a pass of its own."""
    groups, rows = list[list[Path]](), ROWS
    for path in found:
        rows += path.rows
        if rows > ROWS:
            groups.append([])
            rows = path.rows
        groups[-1].append(path)
    return groups


def likelihood(rows: Tensor, ids: Ids, ends: Sequence[int]) -> float:
    """Returns the log-probability of `ids`; row i of `rows` is the distribution after `ids[:i]`."""
    return sum(
        float(row[list(ends)].logsumexp(0) if token == END else row[token])
        for row, token in zip(rows, ids, strict=False)
    )


def _segment(context: CacheState, pack: Sequence[Path]) -> Segment:
    prefill, context.prefilled = not context.prefilled, True
    after = len(context.pending)
    branches = tuple(path.branch(after) for path in pack)
    return Segment(start=context.cached, trunk=tuple(context.pending), branches=branches, prefill=prefill)
