"""The growing output of one request, and where it ends.

Knows end tokens, the token budget and stop strings. Does not know how the tokens were found. Every mode commits through
it, so that all of them cut at the same token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from ..options import SectionStart, Switch
from ..result import FinishReason, Mode, Reason, Rejected, Round, Section

Decode = Callable[[Sequence[int]], str]


class Output:
    """Committed tokens and the rounds that made them.

    `switch`: set when another mode begins, and recorded in the next round. `sections`: parts of the output so far,
    each with the number of tokens before it.
    """

    stop: tuple[str, ...]
    ends: frozenset[int]

    def __init__(self, max_tokens: int, stop: Sequence[str], ends: Sequence[int], decode: Decode) -> None:
        self.max_tokens = max_tokens
        self.stop = tuple(stop)
        self.ends = frozenset(ends)
        self.decode = decode
        self.tokens: list[int] = []
        self.rounds: list[Round] = []
        self.finish: FinishReason | None = None
        self.switch: Switch | SectionStart | None = None
        self.sections: list[tuple[Section, int]] = []
        self._cut: int | None = None
        self._stops = True

    @property
    def section(self) -> Section | None:
        """The part of the output that is written now; None for an output without parts."""
        return self.sections[-1][0] if self.sections else None

    def enter(self, section: Section, stops: bool) -> None:
        """Begins a part of the output. `stops`: whether stop strings end it."""
        self.sections.append((section, len(self.tokens)))
        self._stops = stops

    @property
    def remaining(self) -> int:
        """Tokens that may still be committed."""
        return self.max_tokens - len(self.tokens)

    def commit(
        self,
        mode: Mode,
        tokens: Sequence[int],
        origins: str,
        *,
        drafted: int = 0,
        rejected: Sequence[Rejected] = (),
        forward_passes: int = 0,
        fills: Sequence[int] = (),
    ) -> bool:
        """Appends a round, cut where the output ends; accepted drafts after the cut count as rejected.

        Returns whether to go on.
        """
        kept = self._append(tokens)
        late = [
            Rejected(token=t, reason="stop") for t, o in zip(tokens[kept:], origins[kept:], strict=True) if o == "a"
        ]
        self._add(
            Round(
                mode=mode,
                tokens=tuple(tokens[:kept]),
                origins=origins[:kept],
                drafted=drafted,
                rejected=(*rejected, *late),
                forward_passes=forward_passes,
                fills=tuple(fills),
                section=self.section,
            )
        )
        return self.finish is None

    def give_up(self, mode: Mode, forward_passes: int) -> None:
        """Ends the output here. `forward_passes`: of the whole call; those of no round yet get a round of their own."""
        self.finish = "length"
        uncounted = forward_passes - sum(round_.forward_passes for round_ in self.rounds)
        if uncounted:
            self._add(Round(mode=mode, tokens=(), origins="", forward_passes=uncounted, section=self.section))

    @property
    def text(self) -> str:
        """The text up to the end token or the stop string."""
        return self.decode(self.tokens)[: self._cut]

    def _add(self, round_: Round) -> None:
        if self.switch is not None:
            round_ = replace(round_, switch=self.switch.reason, options=asdict(self.switch.options))
            self.switch = None
        self.rounds.append(round_)

    def _append(self, tokens: Sequence[int]) -> int:
        for count, token in enumerate(tokens, start=1):
            self.tokens.append(token)
            if token in self.ends or self._stopped():
                self.finish = "stop"
            elif not self.remaining:
                self.finish = "length"
            if self.finish is not None:
                return count
        return len(tokens)

    def _stopped(self) -> bool:
        if not self.stop or not self._stops:
            return False
        text = self.decode(self.tokens)
        begin = len(self.decode(self.tokens[: self.sections[-1][1]])) if self.sections else 0
        found = [at for at in (text.find(stop, begin) for stop in self.stop) if at >= 0]
        self._cut = min(found) if found else None
        return bool(found)


def rejections(tokens: Sequence[int], reason: Reason, instead: float | None = None) -> list[Rejected]:
    """Returns consecutive tokens rejected for one reason; `instead`: the probability of the first one's replacement."""
    return [Rejected(token=token, reason=reason, instead=None if at else instead) for at, token in enumerate(tokens)]
