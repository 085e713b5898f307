"""The state of one decoding request, as its mode sees it: cached context, output and gate.

Knows the request's output and its gate, and the step that every mode shares: one causal pass, one token. Does not know
the model or other requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..result import Mode, Section
from .gate import Gate
from .output import Output
from .segment import Passes
from .state import CacheState


@dataclass(slots=True, kw_only=True)
class DecodeState(CacheState):
    """A request's state. `tentative`: slots of a block in progress, None where masked; for observers, no mode reads it.

    `known`: runs of tokens from which drafts may be copied, the prompt last. `should_switch`: called at the end of each
    round; True stops the mode, so that another one may continue. `section`: the part of the output that the mode may
    write, None for all of it: rounds end where the part does.
    """

    mode: Mode
    output: Output
    gate: Gate
    tentative: tuple[int | None, ...] = ()
    known: tuple[tuple[int, ...], ...] = ()
    should_switch: Callable[[], bool] | None = None
    section: Section | None = None

    def continues(self) -> bool:
        """Returns whether the mode begins another round."""
        return self.in_section and not (self.should_switch is not None and self.should_switch())

    @property
    def in_section(self) -> bool:
        """Whether the output goes on, and the next token belongs to the part that the mode may write."""
        return self.output.finish is None and self.section in (None, self.gate.section)

    def force(self) -> list[int] | None:
        """Takes the tokens that the gate forces here and returns them.

        None: they ended the output, or the mode's part of it, and are committed.
        """
        forced = self.gate.take_forced(self.output.remaining, self.section)
        self.pending.extend(forced)
        ended = forced and (forced[-1] in self.output.ends or len(forced) == self.output.remaining)
        if ended or not self.in_section:
            self.output.commit(self.mode, forced, "f" * len(forced))
            return None
        return forced

    def next_token(self, forced: Sequence[int] | None = None) -> Passes:
        """Runs one causal pass and commits one token: a round of `ar`, and the first token of a block in other modes.

        `forced`: what `force` has already taken at this point; by default `force` is called here.
        """
        forced = self.force() if forced is None else forced
        if forced is None:
            return
        passes = (yield from self.prefill()) + self.prefilled
        best = (yield self.step(self.gate.constrains)).trunk.sample_gated(self.gate).tokens[0]
        token = self.gate.resolve(best)
        self.gate.advance([token])
        self.mark_cached(len(self.pending), [token])
        origin = "c" if token == best else "b"
        self.output.commit(self.mode, [*forced, token], "f" * len(forced) + origin, forward_passes=passes)
