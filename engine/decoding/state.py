"""What one live request has committed and what of it is cached, and the segments that its mode builds on that.

Knows token ids and counts. Does not know the model, the pages or other requests.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from .segment import Branch, Reply, Segment

PREFILL_CHUNK = 256
"""Rows that one request may bring to one pass, so that a long prompt stalls nobody."""


@dataclass(slots=True, kw_only=True)
class CacheState:
    """`pending`: committed tokens without cache entries yet; `cached`: entries so far; `adapter`: has the model one."""

    pending: list[int]
    mask_id: int
    adapter: bool
    cached: int = 0
    prefilled: bool = False

    def step(self, constrained: bool) -> Segment:
        """The pending tokens, of which the last chooses the next token; `held`: a gate judges it."""
        prefill, self.prefilled = not self.prefilled, True
        return Segment(
            start=self.cached, trunk=tuple(self.pending), read=1, prefill=prefill, choose=True, constrained=constrained
        )

    def causal(self, draft: Sequence[int] = (), branches: Sequence[Branch] = (), constrained: bool = False) -> Segment:
        """The pending tokens and a draft after them; read are the last pending row and all rows of the draft."""
        prefill, self.prefilled = not self.prefilled, True
        return Segment(
            start=self.cached,
            trunk=(*self.pending, *draft),
            branches=tuple(branches),
            read=len(draft) + 1,
            prefill=prefill,
            constrained=constrained,
        )

    def block(
        self, slots: Sequence[int | None], behind: Sequence[int] = (), adapter: bool = False, check: int = 0
    ) -> Segment:
        """The pending tokens, the slots (None: masked) and known tokens `behind` as one block; the slots are read.

        `check`: how many of the slots' tokens a causal pass is to verify, where that does not depend on them.
        """
        filled = (self.mask_id if slot is None else slot for slot in slots)
        tokens = (*self.pending, *filled, *behind)
        branch = Branch(tokens=tokens, read=len(slots) + len(behind), adapter=adapter)
        then = self.causal([self.mask_id] * check) if check else None
        return Segment(start=self.cached, branches=(branch,), then=then)

    def mark_cached(self, cached: int, pending: Sequence[int]) -> None:
        """`cached` more tokens have entries now, and `pending` wait for theirs."""
        self.cached += cached
        self.pending = list(pending)

    def prefill(self, keep: int = PREFILL_CHUNK) -> Generator[Segment, Reply, int]:
        """Caches pending tokens, a chunk a pass, until at most `keep` are left; returns passes past the prompt's."""
        passes = 0
        while len(self.pending) > keep:
            size = min(PREFILL_CHUNK, len(self.pending) - keep)
            yield Segment(start=self.cached, trunk=tuple(self.pending[:size]), prefill=not self.prefilled)
            passes += self.prefilled
            self.mark_cached(size, self.pending[size:])
        return passes

    def write(self, length: int) -> Generator[Segment, Reply, int]:
        """Caches the whole aligned blocks of `length` pending tokens; returns passes past the prompt's.

        Chunks end where blocks do, because an entry has seen the later tokens of its own block.
        """
        passes, chunk = 0, max(length, PREFILL_CHUNK // length * length)
        while size := min(chunk, len(self.pending) // length * length):
            yield Segment(start=self.cached, trunk=tuple(self.pending[:size]), prefill=not self.prefilled, block=length)
            passes += self.prefilled
            self.mark_cached(size, self.pending[size:])
        self.prefilled = True
        return passes
