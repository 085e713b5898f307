"""Linear self-speculation (nld.md §4c): draft a block in one bidirectional pass, verify it in one causal pass.

Exact: each verified position takes the token that `ar` would take there, because both read the same causal logits, the
same grammar row and the same noise. The draft decides only how many of them a cycle gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..constraint import Gate, allows, only, stack
from ..output import rejections
from ..request import LinearSpecOptions, Rejected
from ..run import Run
from ..segment import Logits, Passes


@dataclass(slots=True)
class Draft:
    """Tokens in order with their origins; the grammar row before each token and, unless it ended, after the last."""

    tokens: list[int] = field(default_factory=list)
    origins: str = ""
    masks: list[Tensor | None] = field(default_factory=list)
    refused: list[Rejected] = field(default_factory=list)

    @property
    def proposed(self) -> int:
        """What the drafter put forward: its tokens that stand, and those that the grammar refused."""
        return self.origins.count("a") + len(self.refused)


def decode(run: Run, options: LinearSpecOptions) -> Passes:
    yield from run.next_token()
    while run.output.finish is None:
        forced = run.force()
        if forced is None:
            return
        room, slots = run.output.room - len(forced), options.block_length - len(run.pending)
        if room == 1 or slots < 1:
            yield from run.next_token(forced)
            continue
        guess = yield run.block([None] * slots, adapter=run.adapter)
        draft = propose(run.gate.fork(), guess, limit=room - 1)
        read = len(draft.masks)  # a row for each token that is still open: the row before it predicts it
        verify = yield run.causal(draft.tokens[: read - 1], read=read)
        chosen = verify.pick(stack(draft.masks)).tokens
        accepted = agreement(draft.tokens, chosen)
        tokens, origins = chosen[: accepted + 1], draft.origins[:accepted]
        if len(tokens) > accepted:
            origins += "f" if _is_forced(draft.masks[accepted]) else "c"
        lost = [t for t, o in zip(draft.tokens[accepted:], draft.origins[accepted:], strict=True) if o == "a"]
        run.gate.advance(tokens)
        run.settle(len(run.pending) + accepted, tokens[accepted:])
        run.output.commit(
            run.mode,
            [*forced, *tokens],
            "f" * len(forced) + origins,
            drafted=draft.proposed,
            rejected=[*draft.refused, *rejections(lost, "target")],
            forward_passes=2,
        )


def propose(gate: Gate, logits: Logits, limit: int) -> Draft:
    """The drafter's tokens, steered by the grammar: a refused one gives way to the best that is allowed there."""
    draft = Draft()
    for row, token in enumerate(logits.pick().tokens[:limit]):
        mask, origin = gate.mask(), "a"
        if mask is not None and (forced := only(mask)) is not None:
            token, origin = forced, "f"
        elif mask is not None and not allows(mask, token):
            draft.refused.append(Rejected(token=token, reason="schema"))
            token = logits.best(mask, row)
        draft.tokens.append(token)
        draft.origins += origin
        draft.masks.append(mask)
        if token in gate.ends:
            return draft
        gate.advance([token])
    draft.masks.append(gate.mask())
    return draft


def agreement(draft: Sequence[int], chosen: Sequence[int]) -> int:
    """The number of leading draft tokens that verification chose too."""
    return next((i for i, (d, c) in enumerate(zip(draft, chosen, strict=False)) if d != c), len(draft))


def _is_forced(mask: Tensor | None) -> bool:
    return mask is not None and only(mask) is not None
