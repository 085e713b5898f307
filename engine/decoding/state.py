"""What one running request has committed and what of it is cached, and the segments that its mode builds on that.

Knows token ids and counts. Does not know the model, the pages or other requests.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from .segment import Branch, Reply, Segment

PREFILL_CHUNK = 256
"""Rows that one request may add to one pass, so that a long prompt does not delay the others."""


@dataclass(slots=True, kw_only=True)
class CacheState:
    """What is committed and cached.

    `pending`: committed tokens without entries yet; `cached`: number of entries so far. `adapter`: whether the model
    has a draft adapter.
    """

    pending: list[int]
    mask_id: int
    adapter: bool
    cached: int = 0
    prefilled: bool = False

    def step(self, constrained: bool) -> Segment:
        """Returns the pass over the pending tokens, of which the last one chooses the next token.

        `constrained`: a gate restricts it.
        """
        prefill, self.prefilled = not self.prefilled, True
        return Segment(
            start=self.cached, trunk=tuple(self.pending), read=1, prefill=prefill, choose=True, constrained=constrained
        )

    def causal(self, draft: Sequence[int] = (), branches: Sequence[Branch] = (), constrained: bool = False) -> Segment:
        """Returns the pass over the pending tokens and a draft after them; reads the last pending row and the draft."""
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
        self, slots: Sequence[int | None], suffix: Sequence[int] = (), adapter: bool = False, verify: int = 0
    ) -> Segment:
        """Returns the pass over the pending tokens, the slots (None: masked) and known tokens `suffix` as one block.

        It reads the slots and the suffix. `verify`: how many of the slots' tokens a causal pass is to verify, if that
        number does not depend on the tokens.
        """
        filled = (self.mask_id if slot is None else slot for slot in slots)
        tokens = (*self.pending, *filled, *suffix)
        branch = Branch(tokens=tokens, read=len(slots) + len(suffix), adapter=adapter)
        then = self.causal([self.mask_id] * verify) if verify else None
        return Segment(start=self.cached, branches=(branch,), then=then)

    def mark_cached(self, cached: int, pending: Sequence[int]) -> None:
        """Records that `cached` more tokens have entries and that `pending` have none yet."""
        self.cached += cached
        self.pending = list(pending)

    def prefill(self, keep: int = PREFILL_CHUNK) -> Generator[Segment, Reply, int]:
        """Caches pending tokens in chunks until at most `keep` are left; returns the passes after the prompt's own."""
        passes = 0
        while len(self.pending) > keep:
            size = min(PREFILL_CHUNK, len(self.pending) - keep)
            yield Segment(start=self.cached, trunk=tuple(self.pending[:size]), prefill=not self.prefilled)
            passes += self.prefilled
            self.mark_cached(size, self.pending[size:])
        return passes

    def write(self, length: int) -> Generator[Segment, Reply, int]:
        """Caches the whole aligned blocks of `length` pending tokens; returns the passes after the prompt's own.

        Chunks end where blocks do, because an entry has seen the later tokens of its own block.
        """
        passes, chunk = 0, max(length, PREFILL_CHUNK // length * length)
        while size := min(chunk, len(self.pending) // length * length):
            yield Segment(start=self.cached, trunk=tuple(self.pending[:size]), prefill=not self.prefilled, block=length)
            passes += self.prefilled
            self.mark_cached(size, self.pending[size:])
        self.prefilled = True
        return passes
