"""A call's output as HTML for notebooks ("tape"): each token in the colour of its origin, without external files.

Knows rounds, their decoders and the origins of tokens. Does not know results. Colours are in `style` attributes,
because the notebook's page has its own style sheet; text is escaped, and every omission is stated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Final

from trimode.engine.result import Round

from ..audit import COLOURS, ORIGINS, Piece, PieceOf, RejectedDrafts, RoundRecord, TextOf, pieces, plain, record_round

TOKENS: Final = 2_000
"""Maximum number of tokens of one tape, because a notebook saves all output in its file."""
_INK: Final = "color:#1f1e1b;color:light-dark(#1f1e1b,#e9e7e2);"
_DIM: Final = "color:#66635c;color:light-dark(#66635c,#a19d95);"
_PANEL: Final = (
    f"{_INK}background:#ffffff;background:light-dark(#ffffff,#1b1b1f);border:1px solid #8888;border-radius:6px;"
    "padding:0.5em 0.8em;margin:0.3em 0;font-size:13px;line-height:1.5;text-align:left;"
)
_TEXT: Final = "font-family:monospace;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.9;"


class Spelling:
    """Decoders from a call's token ids to texts. A pickled or copied one has none, because a result does not contain
    the tokenizer."""

    decoders: tuple[TextOf, PieceOf] | None

    __slots__ = ("decoders",)

    def __init__(self, decoders: tuple[TextOf, PieceOf] | None = None) -> None:
        self.decoders = decoders

    def __reduce__(self) -> tuple[type[Spelling], tuple[()]]:
        return Spelling, ()

    def records(self, rounds: Sequence[Round]) -> list[RoundRecord]:
        """Returns the rounds as records, with the texts of their tokens if there are decoders."""
        return [record_round(round_, "", self.decoders) for round_ in rounds]


def tape(rounds: Sequence[Round], spelling: Spelling, text: str, limit: int = TOKENS) -> str:
    """Returns the rounds that begin within `limit` tokens as HTML. `text`: the whole output, shown instead if tokens
    cannot be decoded."""
    shown, left = _first(rounds, limit)
    spans = "".join(map(_span, _pieces(spelling.records(shown))))
    undecoded = "" if spelling.decoders else f'<div style="{_TEXT}">{escape(plain(text))}</div>'
    more = f'<div style="{_DIM}">{left:,} more tokens are not shown</div>' if left else ""
    return f'<div style="{_TEXT}">{spans}</div>{undecoded}{more}'


def legend(rounds: Iterable[Round]) -> str:
    """Returns the names of the origins that occur, in their colours."""
    found = {piece.origin for piece in _pieces(Spelling().records(list(rounds))) if isinstance(piece, Piece)}
    chips = [
        f'<span title="{escape(meaning)}" style="{_style(code)}">{escape(name)}</span>'
        for code, (name, meaning) in ORIGINS.items()
        if code in found
    ]
    return f'<div style="{_DIM}">{" &nbsp; ".join(chips)}</div>' if chips else ""


def panel(title: str, *parts: str, notes: Sequence[str] = ()) -> str:
    """Returns a box with a title, parts that are HTML, and notes that are text."""
    lines = "".join(f'<div style="{_DIM}">note: {escape(plain(note))}</div>' for note in notes)
    return f'<div style="{_PANEL}"><div><b>{escape(plain(title))}</b></div>{"".join(parts)}{lines}</div>'


def _first(rounds: Sequence[Round], limit: int) -> tuple[list[Round], int]:
    """Returns the rounds that begin within `limit` tokens, and the number of tokens in the others."""
    shown, seen = list[Round](), 0
    for round_ in rounds:
        if seen >= limit:
            break
        shown.append(round_)
        seen += len(round_.tokens)
    return shown, sum(len(round_.tokens) for round_ in rounds[len(shown) :])


def _pieces(records: Sequence[RoundRecord]) -> Iterator[Piece | RejectedDrafts]:
    for number, record in enumerate(records):
        yield from pieces(number, record)


def _span(piece: Piece | RejectedDrafts) -> str:
    tip = escape(piece.tip)
    if isinstance(piece, RejectedDrafts):
        colour = _pair(COLOURS["r"].line)
        return f'<sup title="{tip}" style="color:{colour[0]};color:{colour[1]}">&minus;{piece.count}</sup>'
    return f'<span title="{tip}" style="{_style(piece.origin)}">{escape(piece.text)}</span>'


def _style(origin: str) -> str:
    if origin not in COLOURS:
        return _INK
    one = COLOURS[origin]
    back, line = _pair(one.background), _pair(one.line)
    underline = "text-decoration:underline {0} {1};"
    return (
        f"{_INK}background:{back[0]};background:{back[1]};"
        f"{underline.format(one.style, line[0])}{underline.format(one.style, line[1])}"
    )


def _pair(colours: tuple[str, str]) -> tuple[str, str]:
    """Returns two CSS colours: the light one, for browsers without `light-dark`, and one that follows the scheme."""
    return colours[0], f"light-dark({colours[0]},{colours[1]})"
