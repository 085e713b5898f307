"""The block diffusion of the weights' own loop, to the letter and without cache: a pass is one forward over all text.

A block is filled to its last slot even where the budget ends inside it, every finished block is read once more for the
next seed, and the output is cut when all is done. Written from the loop's description (nld.md §4b), not from ours. Two
things are this engine's: the mask token is never chosen, and temperatures draw their noise by position.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from naive import Naive

from trimode.engine.constraint import Thinking


class Vendor(Naive):
    """`passes` leaves out those that came when the output was known already: the loop goes on, an engine need not."""

    def diffusion(self, block_length: int, threshold: float, thinking: Thinking | None = None) -> None:
        text = self.seeded([], thinking)
        while not self.over(text):
            slots: list[int | None] = [None] * (block_length - 1)
            marker = self.plant(slots, text, thinking)
            while None in slots and not self.left(slots):
                self.passes += not self.over([*text, *filled(slots)])
                self.fill(slots, text, threshold)
                if marker is not None and thinking is not None and thinking.end in filled(slots)[:marker]:
                    slots[marker] = None  # the loop would write a second marker there; here the slot opens again
                    marker = None
            text += filled(slots)
            self.passes += not self.over(text)
            text = self.seeded(text, thinking)
        self.emit(text)

    def over(self, text: Sequence[int]) -> bool:
        """Returns whether the text without masks contains the whole output."""
        return len(text) >= self.max_tokens or any(token in self.ends for token in text)

    def left(self, slots: Sequence[int | None]) -> bool:
        """Whether a block has an end and no mask in front of it."""
        return any(token in self.ends for token in filled(slots))

    def seeded(self, text: Sequence[int], thinking: Thinking | None) -> list[int]:
        """`text` and the next seed, chosen causally; where the budget of thinking ends right here, its marker first."""
        known = list(text)
        if thinking is not None and len(known) == thinking.budget and thinking.end not in known:
            known.append(thinking.end)
        at = len(self.prompt) + len(known)
        return [*known, self.choose(self.forward([*self.prompt, *known])[-1], at)]

    def plant(self, slots: list[int | None], text: Sequence[int], thinking: Thinking | None) -> int | None:
        """Puts the marker where the budget of thinking ends inside the block, and says where."""
        at = -1 if thinking is None or thinking.end in text else thinking.budget - len(text)
        if thinking is None or not 0 <= at < len(slots):
            return None
        slots[at] = thinking.end
        return at

    def fill(self, slots: list[int | None], text: Sequence[int], threshold: float) -> None:
        """One pass: fills the most confident masked slot, whatever its token, and every other one at the threshold."""
        first = len(self.prompt) + len(text)
        block = [text[-1], *(self.model.config.mask_id if slot is None else slot for slot in slots)]
        rows = self.forward([*self.prompt, *text[:-1]], block)[first:]
        masked = [at for at, slot in enumerate(slots) if slot is None]
        chosen = {at: self.choose(rows[at], first + at) for at in masked}
        confidence = {at: float(torch.softmax(rows[at], 0)[chosen[at]]) for at in masked}
        top = max(masked, key=lambda at: confidence[at])
        for at in masked:
            if at == top or confidence[at] >= threshold:
                slots[at] = chosen[at]


def filled(slots: Sequence[int | None]) -> list[int]:
    """Returns the tokens before the first mask."""
    front = next((at for at, slot in enumerate(slots) if slot is None), len(slots))
    return [slot for slot in slots[:front] if slot is not None]
