"""The state of one live request, as its mode sees it: what is committed, what is cached, what may come next.

Knows the request's output and its gate, and the step that every mode shares: one causal pass, one token. Does not know
the model or other requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .constraint import Gate
from .output import Output
from .request import Mode
from .segment import Passes, Segment


@dataclass(slots=True)
class Run:
    """`pending`: committed tokens without cache entries yet; `cached`: entries so far; `adapter`: has the model one."""

    mode: Mode
    pending: list[int]
    output: Output
    gate: Gate
    mask_id: int
    adapter: bool
    cached: int = 0
    prefilled: bool = False

    def causal(self, draft: Sequence[int] = (), read: int = 1) -> Segment:
        """The pending tokens, and a draft after them, through a causal base pass."""
        prefill, self.prefilled = not self.prefilled, True
        return Segment(tokens=(*self.pending, *draft), start=self.cached, read=read, prefill=prefill)

    def block(self, slots: Sequence[int | None], adapter: bool = False) -> Segment:
        """The pending tokens and the slots (None: masked) as one block; the slots are read."""
        filled = tuple(self.mask_id if slot is None else slot for slot in slots)
        tokens = (*self.pending, *filled)
        return Segment(tokens=tokens, start=self.cached, attention="block", adapter=adapter, read=len(slots))

    def settle(self, cached: int, pending: Sequence[int]) -> None:
        """`cached` more tokens have entries now, and `pending` wait for theirs."""
        self.cached += cached
        self.pending = list(pending)

    def force(self) -> list[int] | None:
        """Takes the tokens that the grammar forces here. None: they ended the output and are committed."""
        forced = self.gate.forced(self.output.room)
        self.pending += forced
        if forced and (forced[-1] in self.output.ends or len(forced) == self.output.room):
            self.output.commit(self.mode, forced, "f" * len(forced))
            return None
        return forced

    def next_token(self, forced: Sequence[int] | None = None) -> Passes:
        """One causal pass, one committed token: a round of `ar`, and the seed of every other mode.

        `forced`: what `force` has already taken at this point; by default it is asked here.
        """
        forced = self.force() if forced is None else forced
        if forced is None:
            return
        decode = int(self.prefilled)
        logits = yield self.causal()
        token = logits.best(self.gate.mask())
        self.gate.advance([token])
        self.settle(len(self.pending), [token])
        self.output.commit(self.mode, [*forced, token], "f" * len(forced) + "c", forward_passes=decode)
