"""The record of one round: who made each of its tokens, and what was drafted for them in vain.

Knows plain values only, so that it reads and writes without a model. Does not know the call around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict, JsonValue

if TYPE_CHECKING:
    from trimode.engine.result import Round

TextOf = Callable[[Sequence[int]], str]
PieceOf = Callable[[int], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One round of the engine. `rejected`: [token, reason] in order. Tokens and texts are None where not kept.

    `instead`: for each rejected draft the probability of the token that took its place, where the mode knows it.
    `switch`: why its mode took over from the one before, if it did; `options`: mode and options with which it did, None
    also where an earlier version wrote the record.
    `ends`: the place in `text` where each token's text ends; a character of several tokens belongs to the last of them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    mode: str
    origins: str
    drafted: int
    accepted: int
    rejected: tuple[tuple[int | None, str], ...]
    forward_passes: int
    fills: tuple[int, ...]
    sha256: str
    switch: str = ""
    options: dict[str, JsonValue] | None = None
    tokens: tuple[int, ...] | None = None
    text: str | None = None
    ends: tuple[int, ...] | None = None
    rejected_text: tuple[str, ...] | None = None
    instead: tuple[float | None, ...] | None = None

    def redacted(self) -> RoundRecord:
        return RoundRecord(
            mode=self.mode,
            origins=self.origins,
            drafted=self.drafted,
            accepted=self.accepted,
            rejected=tuple([(None, reason) for _, reason in self.rejected]),
            forward_passes=self.forward_passes,
            fills=self.fills,
            sha256=self.sha256,
            switch=self.switch,
            options=self.options,
        )


def bare_round(made: Round, digest: str) -> RoundRecord:
    """`round_record` without content, as `redacted` makes it. `digest`: of all up to its end."""
    return RoundRecord(
        mode=made.mode,
        origins=made.origins,
        drafted=made.drafted,
        accepted=made.accepted,
        rejected=tuple([(None, one.reason) for one in made.rejected]),
        forward_passes=made.forward_passes,
        fills=made.fills,
        sha256=digest,
        switch=made.switch,
        options=_options(made),
    )


def round_record(made: Round, digest: str, reads: tuple[TextOf, PieceOf] | None) -> RoundRecord:
    """`digest`: of all up to its end. `reads`: the text of ids together, and of one alone; None: texts are not kept."""
    # Lists, because this runs for every draft of every call and generators cost twice as much.
    lost = made.rejected
    text, ends, lost_text = (None, None, None) if reads is None else _texts(made, *reads)
    return RoundRecord(
        mode=made.mode,
        origins=made.origins,
        drafted=made.drafted,
        accepted=made.accepted,
        rejected=tuple([(one.token, one.reason) for one in lost]),
        forward_passes=made.forward_passes,
        fills=made.fills,
        sha256=digest,
        switch=made.switch,
        options=_options(made),
        tokens=made.tokens,
        text=text,
        ends=ends,
        rejected_text=lost_text,
        instead=tuple([one.instead and round(one.instead, 4) for one in lost]),
    )


def _options(made: Round) -> dict[str, JsonValue] | None:
    return None if made.options is None else {"mode": made.mode, **made.options}


def _texts(made: Round, text_of: TextOf, piece_of: PieceOf) -> tuple[str, tuple[int, ...], tuple[str, ...]]:
    """The round's text, where its tokens end in it, and the texts of its rejected drafts."""
    lost = tuple([piece_of(one.token) for one in made.rejected])
    if len(made.tokens) == 1:
        text = piece_of(made.tokens[0])
        return text, (len(text),), lost
    text = text_of(made.tokens)
    return text, token_ends(made.tokens, text, text_of, piece_of), lost


def token_ends(tokens: Sequence[int], whole: str, text_of: TextOf, piece_of: PieceOf) -> tuple[int, ...]:
    """`RoundRecord.ends` of tokens whose text is `whole`. Pieces mostly join up; where not, prefixes are decoded."""
    texts = list(map(piece_of, tokens))
    if "".join(texts) == whole:
        return tuple(accumulate(map(len, texts)))
    places = [_shared(whole, text_of(tokens[:count])) for count in range(1, len(tokens))]
    return (*accumulate(places, max), len(whole))


def _shared(one: str, other: str) -> int:
    """Length of their common beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
