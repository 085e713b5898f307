"""The origins of tokens, in the six kinds that people are shown, with names, explanations and colours.

Knows rounds of a record. Does not know pages or notebooks, which escape markup. Control characters of terminals and of
the direction of writing are replaced here by their code points.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from .round_record import RoundRecord

ORIGINS: Final = {
    "a": ("accepted", "drafted, and accepted"),
    "c": ("corrected", "chosen by verification against the draft"),
    "s": ("own choice", "chosen by a causal pass: ar, and what starts or follows a draft"),
    "f": ("forced", "the only token that the schema allowed"),
    "r": ("repaired", "the best allowed token where a draft broke the schema"),
    "b": ("budget", "forced because another choice would have left no room to end the text"),
}
"""Name and meaning by provenance code. Records have no `s`: it is their `c` in rounds where the target rejected no
draft."""


@dataclass(frozen=True, slots=True)
class Colour:
    """Background and underline, each for light and dark, as CSS colours; `style` and width of the underline."""

    background: tuple[str, str]
    line: tuple[str, str]
    style: str


COLOURS: Final = {
    "a": Colour(("#dde9fc", "#1d3358"), ("#2b66c4", "#7fb0ff"), "solid 1.5px"),
    "c": Colour(("#fcebc8", "#463310"), ("#a06a0c", "#f0bb53"), "dashed 1.5px"),
    "f": Colour(("#ebe5f6", "#33294a"), ("#76559f", "#c3a5f0"), "dotted 2px"),
    "r": Colour(("#fadcd3", "#54241a"), ("#bd3b0d", "#ff9169"), "double 1.5px"),
    "b": Colour(("#e4ece0", "#27371f"), ("#4c7a2c", "#9ccb78"), "wavy 1.5px"),
}
"""By provenance code; the model's own choice has none."""
UNKNOWN: Final = "?"
"""Replaces unknown provenance codes, which the verdict on the file reports."""

REASONS: Final = {
    "schema": "refused by the schema",
    "budget": "it would have left no room to end the text",
    "target": "verification chose another token there or before",
    "low_confidence": "too unsure",
    "stop": "the output was over",
    "": "no reason recorded",
}
EMPTY: Final = "◦"
"""Replaces tokens without text, such as the end of the output."""

_STEERING: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Consecutive tokens of one origin in one round; `text` is their provenance codes where the record has no text."""

    origin: str
    text: str
    tokens: int
    round: int
    tip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedDrafts:
    """Rejected drafts of one round, placed before the token that replaced them."""

    count: int
    round: int
    tip: str


def plain(text: str) -> str:
    """Returns the text with control characters replaced by their code points; line ends and tabs stay."""
    return _STEERING.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", text)


def has_token_text(round_: RoundRecord) -> bool:
    """Returns whether the record has the round's text, token by token."""
    return round_.text is not None and round_.ends is not None


def pieces(number: int, round_: RoundRecord) -> Iterator[Piece | RejectedDrafts]:
    """Yields the round's pieces in order. Rejected drafts come before the token that replaced them, else at the end."""
    codes, drafts = provenance_codes(round_), _rejected_drafts(number, round_)
    at = 0
    for origin, group in groupby(codes):
        count = len(list(group))
        if drafts is not None and origin == "c":
            yield drafts
            drafts = None
        name, meaning = ORIGINS.get(origin, ("of unknown origin", "see the verdict"))
        tip = f"round {number} · {round_.mode} · {count} {'token' if count == 1 else 'tokens'} {name}: {meaning}"
        yield Piece(origin=origin, text=_text(round_, at, at + count, origin), tokens=count, round=number, tip=tip)
        at += count
    if drafts is not None:
        yield drafts


def provenance_codes(round_: RoundRecord) -> str:
    """Returns the provenance code of each token; `s` for a choice in a round where the target rejected no draft."""
    draft_rejected = any(reason == "target" for _, reason in round_.rejected)
    known = "".join(code if code in "acfrb" else UNKNOWN for code in round_.origins)
    return known if draft_rejected else known.replace("c", "s")


def rejected(round_: RoundRecord) -> Iterator[tuple[str, str, int]]:
    """Yields (text, reason, number) for each run of rejected drafts with one reason; text is "" where not kept."""
    texts = round_.rejected_text or ("",) * len(round_.rejected)
    drafts = zip((reason for _, reason in round_.rejected), texts, strict=False)
    for reason, group in groupby(drafts, key=lambda draft: draft[0]):
        run = [text for _, text in group]
        # Drafts that the grammar rejects are not consecutive tokens; all others are, so their texts are joined.
        yield plain((" · " if reason == "schema" else "").join(run)), REASONS.get(reason, reason), len(run)


def _rejected_drafts(number: int, round_: RoundRecord) -> RejectedDrafts | None:
    if not round_.rejected:
        return None
    lines = [f"round {number} · {round_.mode} · {len(round_.rejected)} of {round_.drafted} drafts rejected"]
    for text, why, count in rejected(round_):
        lines.append(f"{f'“{text}”' if text else f'{count} tokens' if count > 1 else 'one token'}: {why}")
    return RejectedDrafts(count=len(round_.rejected), round=number, tip="\n".join(lines))


def _text(round_: RoundRecord, first: int, last: int, origin: str) -> str:
    if round_.text is None or round_.ends is None:
        return origin * (last - first)
    begin = round_.ends[first - 1] if first else 0
    return plain(round_.text[begin : round_.ends[last - 1]]) or EMPTY
