"""Where tokens came from, in the six kinds that the page tells apart, and the words for them.

Knows rounds of a record. Text is made safe to look at here: characters that steer a terminal or turn the direction of
writing around are shown as what they are. Markup is escaped by the template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from trimode.policy.audit import RoundRecord

ORIGINS: Final = {
    "a": ("accepted", "drafted, and accepted"),
    "c": ("corrected", "chosen by verification against the draft"),
    "s": ("own choice", "chosen by a causal pass: ar, and what starts or follows a draft"),
    "f": ("forced", "the only token that the schema allowed"),
    "r": ("repaired", "the best allowed token where a draft broke the schema"),
    "b": ("budget", "forced because another choice would have left no room to end the text"),
}
"""Letter: name and meaning. Records have no `s`: it is their `c` where no draft was turned down for it."""
UNKNOWN: Final = "?"
"""Stands for letters that are none of these: the verdict on the file names them."""

REASONS: Final = {
    "schema": "refused by the schema",
    "budget": "it would have left no room to end the text",
    "target": "verification chose another token there or before",
    "low_confidence": "too unsure",
    "stop": "the output was over",
    "": "no reason recorded",
}
EMPTY: Final = "◦"
"""Stands for tokens without text, such as the end of the output."""

_STEERING: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Consecutive tokens of one origin in one round; `text` is their letters where the record holds no text."""

    origin: str
    text: str
    tokens: int
    round: int
    tip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Rejected drafts of one round, at the place where the output went on without them."""

    count: int
    round: int
    tip: str


def plain(text: str) -> str:
    """The text with steering characters shown by name; line ends and tabs stay."""
    return _STEERING.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", text)


def told(made: RoundRecord) -> bool:
    """Whether the record holds the round's text, token by token."""
    return made.text is not None and made.ends is not None


def pieces(number: int, made: RoundRecord) -> Iterator[Piece | Lost]:
    """The round in order. Rejected drafts stand before the token that replaced them, else at the end."""
    kinds, lost = letters(made), _lost(number, made)
    at = 0
    for origin, group in groupby(kinds):
        count = len(list(group))
        if lost is not None and origin == "c":
            yield lost
            lost = None
        name, meaning = ORIGINS.get(origin, ("of unknown origin", "see the verdict"))
        tip = f"round {number} · {made.mode} · {count} {'token' if count == 1 else 'tokens'} {name}: {meaning}"
        yield Piece(origin=origin, text=_text(made, at, at + count, origin), tokens=count, round=number, tip=tip)
        at += count
    if lost is not None:
        yield lost


def letters(made: RoundRecord) -> str:
    """The origin of each token; `s` for a choice that no draft was turned down for."""
    turned_down = any(reason == "target" for _, reason in made.rejected)
    known = "".join(letter if letter in "acfrb" else UNKNOWN for letter in made.origins)
    return known if turned_down else known.replace("c", "s")


def rejected(made: RoundRecord) -> Iterator[tuple[str, str, int]]:
    """(text, reason in words, number) for each run of rejected drafts with one reason; text is empty where not kept."""
    texts = made.rejected_text or ("",) * len(made.rejected)
    drafts = zip((reason for _, reason in made.rejected), texts, strict=False)
    for reason, group in groupby(drafts, key=lambda draft: draft[0]):
        run = [text for _, text in group]
        # The grammar refuses tokens here and there; the others were drafted one behind the other.
        yield plain((" · " if reason == "schema" else "").join(run)), REASONS.get(reason, reason), len(run)


def _lost(number: int, made: RoundRecord) -> Lost | None:
    if not made.rejected:
        return None
    lines = [f"round {number} · {made.mode} · {len(made.rejected)} of {made.drafted} drafts rejected"]
    for text, why, count in rejected(made):
        lines.append(f"{f'“{text}”' if text else f'{count} tokens' if count > 1 else 'one token'}: {why}")
    return Lost(count=len(made.rejected), round=number, tip="\n".join(lines))


def _text(made: RoundRecord, first: int, last: int, origin: str) -> str:
    if made.text is None or made.ends is None:
        return origin * (last - first)
    begin = made.ends[first - 1] if first else 0
    return plain(made.text[begin : made.ends[last - 1]]) or EMPTY
