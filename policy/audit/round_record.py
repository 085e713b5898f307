"""The record of one round: the origin of each of its tokens, and the drafts that were rejected.

Knows plain values only, so that records are read and written without a model. Does not know the call around it.
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
"""Decodes token ids together."""
PieceOf = Callable[[int], str]
"""Decodes one token id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One round of the engine. `rejected`: [token, reason] in order. Tokens and texts are None where not kept.

    `origins`: one provenance code for each token: a, accepted draft; c, the model's own (corrected or first); f, forced
    by the grammar; r, repaired; b, forced by the token budget.
    `instead`: for each rejected draft the probability of the token that replaced it, where the mode knows it.
    `switch`: why the mode changed before this round, empty if it did not; `options`: the mode and options from then on,
    None also in records of earlier versions.
    `section`: the number and kind of the part of a turn that the tokens belong to; None outside turns.
    `ends`: offset in `text` where each token's text ends; a character of several tokens belongs to the last of them.
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
    section: tuple[int, str] | None = None
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
            section=self.section,
        )


def bare_round(round_: Round, digest: str) -> RoundRecord:
    """Returns the round's record without content, as `redacted` does. `digest`: of prompt and output up to its end."""
    return RoundRecord(
        mode=round_.mode,
        origins=round_.origins,
        drafted=round_.drafted,
        accepted=round_.accepted,
        rejected=tuple([(None, draft.reason) for draft in round_.rejected]),
        forward_passes=round_.forward_passes,
        fills=round_.fills,
        sha256=digest,
        switch=round_.switch,
        options=_options(round_),
        section=_section(round_),
    )


def record_round(round_: Round, digest: str, decoders: tuple[TextOf, PieceOf] | None) -> RoundRecord:
    """Returns the round's record. `digest`: of prompt and output up to its end. `decoders`: None where no texts are
    kept."""
    # Lists, because this runs for every draft of every call and generators cost twice as much.
    text, ends, rejected_text = (None, None, None) if decoders is None else _texts(round_, *decoders)
    return RoundRecord(
        mode=round_.mode,
        origins=round_.origins,
        drafted=round_.drafted,
        accepted=round_.accepted,
        rejected=tuple([(draft.token, draft.reason) for draft in round_.rejected]),
        forward_passes=round_.forward_passes,
        fills=round_.fills,
        sha256=digest,
        switch=round_.switch,
        options=_options(round_),
        section=_section(round_),
        tokens=round_.tokens,
        text=text,
        ends=ends,
        rejected_text=rejected_text,
        instead=tuple([draft.instead and round(draft.instead, 4) for draft in round_.rejected]),
    )


def _options(round_: Round) -> dict[str, JsonValue] | None:
    return None if round_.options is None else {"mode": round_.mode, **round_.options}


def _section(round_: Round) -> tuple[int, str] | None:
    return None if round_.section is None else (round_.section.number, round_.section.kind)


def _texts(round_: Round, text_of: TextOf, piece_of: PieceOf) -> tuple[str, tuple[int, ...], tuple[str, ...]]:
    """Returns the round's text, the offsets where its tokens end, and the texts of its rejected drafts."""
    rejected = tuple([piece_of(draft.token) for draft in round_.rejected])
    if len(round_.tokens) == 1:
        text = piece_of(round_.tokens[0])
        return text, (len(text),), rejected
    text = text_of(round_.tokens)
    return text, token_ends(round_.tokens, text, text_of, piece_of), rejected


def token_ends(tokens: Sequence[int], whole: str, text_of: TextOf, piece_of: PieceOf) -> tuple[int, ...]:
    """Returns `RoundRecord.ends` of tokens whose text is `whole`. Where the texts of single tokens do not concatenate
    to it, prefixes are decoded."""
    texts = list(map(piece_of, tokens))
    if "".join(texts) == whole:
        return tuple(accumulate(map(len, texts)))
    offsets = [_common_prefix(whole, text_of(tokens[:count])) for count in range(1, len(tokens))]
    return (*accumulate(offsets, max), len(whole))


def _common_prefix(one: str, other: str) -> int:
    """Returns the length of the common prefix."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
