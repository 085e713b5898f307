"""Block diffusion (nld.md §4b) behind a left-to-right gate (constrained.md §4.3).

A block starts with the seed that the causal pass chose and is filled out of order: each pass fills the most confident
masked slot and every other one at the threshold. A filled slot stays tentative until the gate reaches it from the left:
a token that the grammar refuses is repaired with the best allowed one, and what was guessed after it is masked again.
A finished block is read once more causally, which writes the cache and gives the next seed. Not exact, never invalid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..constraint import Gate
from ..output import rejections
from ..request import DiffusionOptions
from ..result import Reason, Rejected
from ..run import Run
from ..segment import Logits, Passes


def decode(run: Run, options: DiffusionOptions) -> Passes:
    assert options.block_length is not None, "the engine puts in the number"
    yield from run.next_token()
    while run.output.finish is None:
        forced = run.force()
        if forced is None:
            return
        length = options.block_length - len(run.pending)
        if length < 1:
            yield from run.next_token(forced)
            continue
        yield from fill(run, length, options.threshold, forced)
        if run.output.finish is None:
            yield from run.next_token()


def fill(run: Run, length: int, threshold: float, forced: Sequence[int] = ()) -> Passes:
    """Fills `length` slots behind the pending tokens, until all are, or the output has ended or is out of budget.

    Commits them, behind what was `forced` in front of them, and leaves them pending.
    """
    room = run.output.room - len(forced)
    block = Block(run.gate, [None] * length, threshold)
    while not block.done and len(block.tokens) < room:
        block.denoise((yield run.block(block.slots)).branches[0])
        run.tentative = tuple(block.slots)
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


@dataclass(slots=True)
class Block:
    """Slots of one block: the gated `tokens` at their start, tentative tokens and None (masked) after them."""

    gate: Gate
    slots: list[int | None]
    threshold: float
    tokens: list[int] = field(default_factory=list)
    origins: str = ""
    drafted: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    fills: list[int] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return len(self.tokens) == len(self.slots) or (bool(self.tokens) and self.tokens[-1] in self.gate.ends)

    def denoise(self, logits: Logits) -> None:
        """Reads one pass: fills slots, then gates from the left."""
        # Behind a guessed end nothing can become output, so nothing is guessed there.
        end = next((at for at, slot in enumerate(self.slots) if slot in self.gate.ends), len(self.slots))
        masked = [at for at, slot in enumerate(self.slots[:end]) if slot is None]
        # Only refused guesses can leave more masks than passes to come; from then on the gate moves every pass.
        behind = len(masked) > len(self.slots) - len(self.fills)
        fresh = self._fill(logits, masked)
        self._settle(logits, fresh, behind)

    def close(self) -> None:
        """Gives up what was guessed after the end of the output."""
        self._clear(len(self.tokens), "stop")

    def _fill(self, logits: Logits, masked: list[int]) -> set[int]:
        picks = logits.pick()
        fresh = surest(masked, picks.confidence, self.threshold)
        for at in fresh:
            self.slots[at] = picks.tokens[at]
        self.drafted += len(fresh)
        self.fills.append(len(fresh))
        return fresh

    def _settle(self, logits: Logits, fresh: set[int], behind: bool) -> None:
        """Moves the gate over the filled run at its front, repairing what the grammar refuses."""
        first = len(self.tokens)
        while not self.done:
            at, forced = len(self.tokens), self.gate.forced()
            token = self.slots[at]
            if token is not None and (token == forced if forced is not None else self.gate.allows(token)):
                self._place(token, "a")
            elif forced is not None:
                self._clear(at, "schema") if token is not None else None
                self._place(forced, "f")
            elif token is None and not (behind and at == first):
                return
            elif token is not None and at not in fresh:
                # Its slot was filled in this pass's input, so this pass has no prediction for it.
                self._clear(at, "schema")
                return
            else:
                self._clear(at, "schema")
                picks = logits.pick([self.gate.mask()], [at])
                if at != first and picks.confidence[0] < self.threshold:
                    return
                self._place(picks.tokens[0], "r")

    def _place(self, token: int, origin: str) -> None:
        """Takes `token` as the next of the output, or another where it would leave no room to end."""
        at, kept = len(self.tokens), token if origin == "f" else self.gate.settled(token)
        if kept != token:
            self._clear(at, "budget")
        self.slots[at] = kept
        self.tokens.append(kept)
        self.origins += origin if kept == token else "b"
        self.gate.advance([kept])

    def _clear(self, start: int, reason: Reason) -> None:
        guesses = [slot for slot in self.slots[start:] if slot is not None]
        self.rejected += rejections(guesses, reason)
        self.slots[start:] = [None] * (len(self.slots) - start)


def surest(masked: Sequence[int], confidence: Sequence[float], threshold: float) -> set[int]:
    """The most confident slot of `masked`, and every other one at the threshold."""
    best = max(masked, key=lambda at: confidence[at])
    return {at for at in masked if at == best or confidence[at] >= threshold}
