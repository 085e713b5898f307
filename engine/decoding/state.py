"""What one running request has committed and what of it is cached, and the segments that its mode builds on that.

Knows token ids and counts. Does not know the model, the pages or other requests.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from ..drafting import Drafting
from .segment import Branch, Reply, Segment

PREFILL_CHUNK = 256
"""Rows that one request may add to one pass, so that a long prompt does not delay the others."""


@dataclass(slots=True, kw_only=True)
class CacheState:
    """What is committed and cached.

    `pending`: committed tokens without entries yet; `cached`: number of entries so far. `mask_id`: in the slots of a
    block to fill. `drafting`: how the weights draft, with random slots by `seed`. `adapter`: whether the model has a
    draft adapter.
    """

    pending: list[int]
    mask_id: int
    drafting: Drafting
    adapter: bool
    seed: int = 0
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

    def block(self, slots: Sequence[int | None], suffix: Sequence[int] = ()) -> Segment:
        """Returns the pass over the pending tokens, the slots (None: masked) and known tokens `suffix` as one block.

        It reads the slots and the suffix. Where an adapter fills the slots, the pending tokens are no rows of the
        block: they run with base weights before it.
        """
        filled = (*(self.mask_id if slot is None else slot for slot in slots), *suffix)
        if self.drafting.fills:
            branch = Branch(tokens=filled, read=len(filled), after=len(self.pending), adapter=self.adapter)
            return Segment(start=self.cached, trunk=tuple(self.pending), branches=(branch,))
        branch = Branch(tokens=(*self.pending, *filled), read=len(filled))
        return Segment(start=self.cached, branches=(branch,))

    def draft_block(self, slots: int, verify: int = 0) -> Segment:
        """Returns the pass over the pending tokens and the slots of a draft as one block; it reads the slots.

        `verify`: how many of the slots' tokens a causal pass is to verify, if that number does not depend on the
        tokens.
        """
        drafting, known = self.drafting, len(self.pending)
        first = self.cached + known
        tokens = (*self.pending, *drafting.noise.ids(self.seed, range(first, first + slots)))
        branch = Branch(
            tokens=tokens[: len(tokens) - drafting.ahead],
            read=slots,
            causal=drafting.causal,
            ahead=drafting.ahead,
            adapter=self.adapter,
        )
        then = replace(self.causal([0] * verify), open=verify) if verify else None
        return Segment(start=self.cached, branches=(branch,), then=then)

    def draft_after(self, after: int, length: int) -> Branch:
        """Returns the branch that drafts `length` - 1 tokens next to the first `after` tokens of a trunk.

        The row of the last of these decides the next token; the draft is of those that follow it.
        """
        drafting, first = self.drafting, self.cached + after
        return Branch(
            tokens=drafting.noise.ids(self.seed, range(first, first + length - drafting.ahead)),
            read=length - 1,
            after=after,
            causal=drafting.causal,
            ahead=drafting.ahead,
            adapter=self.adapter,
        )

    def draft_and_decide(self, length: int, constrained: bool, verify: int = 0) -> Segment:
        """Returns the pass that decides the token after the pending ones and drafts `length` - 1 more.

        `verify`: how many of these a causal pass is to verify, with the decided token before them, if that number does
        not depend on the tokens; 0 if it does.
        """
        pending = len(self.pending)
        draft = self.causal((), [self.draft_after(pending, length)], constrained)
        if not verify:
            return draft
        tokens = (0,) * (1 + verify)
        then = Segment(start=self.cached + pending, trunk=tokens, read=len(tokens), open=len(tokens))
        return replace(draft, then=then)

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
