"""Rounds as a person reads them in a trace viewer: a line of summary and a Markdown table.

Knows records. The table holds content: show it only where content may be shown. Long calls are cut in the middle, but
a draft that the schema refused is always there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..audit import RoundRecord

_ENDS: Final = 50


def tape(rounds: Sequence[RoundRecord]) -> str:
    """Accepted/drafted of each round: `4/4 3/5`."""
    return " ".join(f"{made.accepted}/{made.drafted}" for made in rounds)


def summary(mode: str, rounds: Sequence[RoundRecord]) -> str:
    accepted, drafted = sum(made.accepted for made in rounds), sum(made.drafted for made in rounds)
    path = f", accepted {accepted}/{drafted}, tape {tape(rounds)}" if drafted else ""
    return f"mode={mode}, {sum(len(made.origins) for made in rounds)} tokens{path}"


def markdown(rounds: Sequence[RoundRecord], first: int = 0) -> str:
    """A row a round: its tokens by origin, and what was rejected and why. `first`: the number of the first round."""
    rows = ["| # | output | origins | rejected | why |", "|--:|---|---|---|---|"]
    skipped = 0
    for index, made in enumerate(rounds):
        inside = _ENDS <= index < len(rounds) - _ENDS
        if inside and all(reason != "schema" for _, reason in made.rejected):
            skipped += 1
            continue
        rows.append(_row(first + index, made))
    if skipped:
        rows.append(f"\n{skipped} rounds in the middle are not shown.")
    return "\n".join(rows)


def _row(number: int, made: RoundRecord) -> str:
    output = made.text if made.text is not None else " ".join(map(str, made.tokens or ()))
    texts = made.rejected_text or tuple(str(token) for token, _ in made.rejected)
    code = _code("".join(texts))
    # Struck-through emptiness would be four tildes, which begin a block of code.
    lost = f"~~{code}~~" if code else "no text" if texts else ""
    why = ", ".join(dict.fromkeys(reason for _, reason in made.rejected))
    return f"| {number} | {_code(output)} | {_code(made.origins)} | {lost} | {why} |"


def _code(text: str) -> str:
    """A code span that a table cell can hold: no line end, pipe or backtick breaks out of it."""
    plain = text.strip().replace("\n", "⏎").replace("\r", "").replace("|", "¦").replace("`", "'")
    return f"`{plain}`" if plain else ""
