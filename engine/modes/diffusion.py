"""Block diffusion (nld.md §4b) with a left-to-right gate (constrained.md §4.3).

Knows one request, its gate and its logits. Does not know the model. A block starts with the seed, the token that the
causal pass chose, and is filled out of order: each pass fills the most confident masked slot and every other one at the
threshold. Selection "vendor" is exactly that rule; "text_first" leaves end tokens and what follows them to later
passes. A filled slot is tentative until the gate reaches it from the left: a token that the grammar refuses is repaired
with the best allowed one, and slots that were filled while it was visible are masked again. After a refusal the gate
also continues over masked slots, as long as the best allowed token reaches the threshold. A finished block is read once
more causally, which writes the cache and gives the next seed. Not exact, but always valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..decoding.gate import Gate
from ..decoding.output import rejections
from ..decoding.run import DecodeState
from ..decoding.segment import Logits, Passes
from ..options import AlignedOptions, DiffusionOptions, Selection
from ..result import Reason, Rejected, Section


def decode(run: DecodeState, options: DiffusionOptions) -> Passes:
    assert options.block_length is not None, "the engine sets the length"
    yield from run.next_token()
    while run.in_section:
        forced = run.force()
        if forced is None:
            return
        length = options.block_length - len(run.pending)
        if length < 1:
            yield from run.next_token(forced)
            continue
        yield from fill(run, length, options, forced)
        if run.in_section:
            yield from run.next_token()


def fill(
    run: DecodeState, length: int, options: DiffusionOptions | AlignedOptions, forced: Sequence[int] = ()
) -> Passes:
    """Fills `length` slots after the pending tokens, until all are filled, the output ends or the budget is spent.

    Commits them after the `forced` tokens before them, and leaves them pending.
    """
    assert options.selection is not None, "the engine sets the weights' selection"
    remaining = run.output.remaining - len(forced)
    block = Block(run.gate, length, options.threshold, options.selection, run.section)
    slots = block.slots
    while not block.done and len(block.tokens) < remaining:
        block.denoise((yield run.block(slots)).branches[0])
        slots = block.slots
        run.tentative = tuple(slots)
    block.close()
    run.tentative = ()
    run.pending += block.tokens
    run.output.commit(
        run.mode,
        [*forced, *block.tokens],
        "f" * len(forced) + block.origins,
        drafted=block.drafted,
        rejected=block.rejected,
        forward_passes=len(block.fills),
        fills=block.fills,
    )


@dataclass(frozen=True, slots=True)
class TentativeToken:
    """A tentative token, the index of the pass that filled it, and that pass's logits of the slot.

    `logits` is None if no repair can be needed.
    """

    token: int
    pass_index: int
    logits: Logits | None


@dataclass(slots=True)
class Block:
    """`length` slots: the gated `tokens` at their start, tentative tokens after them (`tentative`), masks elsewhere.

    It is done where `section`, the part of the output that its mode may write, ends.
    """

    gate: Gate
    length: int
    threshold: float
    selection: Selection
    section: Section | None = None
    tokens: list[int] = field(default_factory=list)
    tentative: dict[int, TentativeToken] = field(default_factory=dict)
    origins: str = ""
    drafted: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    fills: list[int] = field(default_factory=list)

    @property
    def slots(self) -> list[int | None]:
        found: list[int | None] = [*self.tokens, *[None] * (self.length - len(self.tokens))]
        for at, entry in self.tentative.items():
            found[at] = entry.token
        if self.gate.thinking is not None and self.marker is not None:
            found[self.marker] = self.gate.thinking.end
        return found

    @property
    def marker(self) -> int | None:
        """Slot in which the thinking budget will force its end, if in this block; passes see it from the start.

        It is masked again if the thinking ends earlier. Selection "vendor" only.
        """
        if self.gate.thinking is None or self.selection != "vendor":
            return None
        at = len(self.tokens) + self.gate.thinking.budget - self.gate.thinking_tokens
        return at if at < self.length else None

    @property
    def done(self) -> bool:
        ended = bool(self.tokens) and self.tokens[-1] in self.gate.ends
        return ended or len(self.tokens) == self.length or self.section not in (None, self.gate.section)

    def denoise(self, logits: Logits) -> None:
        """Applies one pass: fills slots, then moves the gate from the left."""
        filled = {*self.tentative, self.marker}
        masked = [at for at in range(len(self.tokens), self._stop()) if at not in filled]
        # Only refused tokens can leave more masks than passes to come; then the gate moves in every pass.
        late = len(masked) > self.length - len(self.fills)
        self._fill(logits, masked)
        self._advance_gate(logits, late)

    def close(self) -> None:
        """Rejects the tentative tokens after the end of the output."""
        self._discard(self.tentative, "stop")

    def _stop(self) -> int:
        """Returns the slot from which on none is filled.

        Selection "text_first" stops at a tentative end token, because tokens after it become output only if it is
        refused.
        """
        if self.selection == "vendor":
            return self.length
        return min((at for at, entry in self.tentative.items() if entry.token in self.gate.ends), default=self.length)

    def _fill(self, logits: Logits, masked: Sequence[int]) -> None:
        sampled = logits.sample()
        least = masked
        if self.selection == "text_first":
            # Far after a short text an end token has high confidence, which says nothing about where the text ends.
            least = [at for at in masked if sampled.tokens[at] not in self.gate.ends] or masked[:1]
        fresh = most_confident(masked, sampled.confidence, self.threshold, least)
        for at in fresh:
            self.tentative[at] = TentativeToken(
                sampled.tokens[at], len(self.fills), logits.row_copy(at) if self.gate.constrains else None
            )
        self.drafted += len(fresh)
        self.fills.append(len(fresh))

    def _advance_gate(self, logits: Logits, late: bool) -> None:
        """Moves the gate over filled slots from the left, and on while grammar and logits decide the next token."""
        first = len(self.tokens)
        while not self.done:
            at, forced = len(self.tokens), self.gate.forced()
            entry = self.tentative.get(at)
            if forced is not None:
                accepted = entry is not None and entry.token == forced
                self._reject(at) if entry is not None and not accepted else None
                self._place(forced, "a" if accepted else "f")
            elif entry is not None and self.gate.allows(entry.token):
                self._place(entry.token, "a")
            elif (token := self._repair(at, entry, logits, at == first, late)) is not None:
                self._place(token, "r")
            else:
                return

    def _repair(self, at: int, entry: TentativeToken | None, logits: Logits, first: bool, late: bool) -> int | None:
        """Returns the best allowed token of a masked slot, or of one whose token is refused; None to leave it masked.

        Without a refusal masked slots wait, so that a block that needs no repair equals the unconstrained one.
        """
        fresh = entry is not None and entry.pass_index == len(self.fills) - 1
        must = first and (late if entry is None else fresh)
        if entry is None and not must and not self.rejected:
            return None
        # This pass saw the slot filled and did not predict it; the pass that filled it did.
        own = logits.row_copy(at) if entry is None else entry.logits
        assert own is not None, "logits are kept for every token that can be refused"
        sampled = own.sample_masked(self.gate.mask())
        if entry is not None:
            self._reject(at)
        return sampled.tokens[0] if must or sampled.confidence[0] >= self.threshold else None

    def _place(self, token: int, origin: str) -> None:
        """Takes `token` as the next of the output, or a completion's token if no completion fits after it."""
        kept = token if origin == "f" else self.gate.resolve(token)
        if kept != token:
            self._discard(self.tentative, "budget")
        self.tentative.pop(len(self.tokens), None)
        self.tokens.append(kept)
        self.origins += origin if kept == token else "b"
        self.gate.advance([kept])

    def _reject(self, at: int) -> None:
        """Masks a slot again, and the slots that were filled by later passes, which saw its token."""
        pass_index = self.tentative[at].pass_index
        self._discard(
            [other for other, entry in self.tentative.items() if other == at or entry.pass_index > pass_index], "schema"
        )

    def _discard(self, slots: Iterable[int], reason: Reason) -> None:
        self.rejected += rejections([self.tentative.pop(at).token for at in sorted(slots)], reason)


def most_confident(
    masked: Sequence[int], confidence: Sequence[float], threshold: float, least: Sequence[int]
) -> set[int]:
    """Returns the slots of `masked` at the threshold, and the most confident slot of `least`."""
    best = max(least, key=lambda at: confidence[at])
    return {at for at in masked if at == best or confidence[at] >= threshold}
