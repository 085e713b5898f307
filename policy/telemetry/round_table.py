"""Rounds for people who read them in a trace viewer: a line of summary and a Markdown table.

Knows records. Does not know spans. The table contains content, so it may be shown only where content may be. Long calls
are cut in the middle, but drafts that the schema rejected are always shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..audit import RoundRecord

_ENDS: Final = 50


def tape(rounds: Sequence[RoundRecord]) -> str:
    """Returns accepted/drafted of each round: `4/4 3/5`."""
    return " ".join(f"{round_.accepted}/{round_.drafted}" for round_ in rounds)


def summary(mode: str, rounds: Sequence[RoundRecord]) -> str:
    """Returns `mode=..., N tokens, accepted A/D, tape ...`, without content."""
    accepted, drafted = sum(round_.accepted for round_ in rounds), sum(round_.drafted for round_ in rounds)
    path = f", accepted {accepted}/{drafted}, tape {tape(rounds)}" if drafted else ""
    return f"mode={mode}, {sum(len(round_.origins) for round_ in rounds)} tokens{path}"


def markdown(rounds: Sequence[RoundRecord], first: int = 0) -> str:
    """Returns a table with one row for each round: text, origins, rejected drafts and reasons. `first`: the number of
    the first round."""
    rows = ["| # | output | origins | rejected | why |", "|--:|---|---|---|---|"]
    skipped = 0
    for index, round_ in enumerate(rounds):
        inside = _ENDS <= index < len(rounds) - _ENDS
        if inside and all(reason != "schema" for _, reason in round_.rejected):
            skipped += 1
            continue
        rows.append(_row(first + index, round_))
    if skipped:
        rows.append(f"\n{skipped} rounds in the middle are not shown.")
    return "\n".join(rows)


def _row(number: int, round_: RoundRecord) -> str:
    output = round_.text if round_.text is not None else " ".join(map(str, round_.tokens or ()))
    texts = round_.rejected_text or tuple(str(token) for token, _ in round_.rejected)
    code = _code("".join(texts))
    # Empty text is not struck through, because four tildes would begin a block of code.
    rejected = f"~~{code}~~" if code else "no text" if texts else ""
    why = ", ".join(dict.fromkeys(reason for _, reason in round_.rejected))
    return f"| {number} | {_code(output)} | {_code(round_.origins)} | {rejected} | {why} |"


def _code(text: str) -> str:
    """Returns a Markdown code span for a table cell, with line ends, pipes and backticks replaced."""
    plain = text.strip().replace("\n", "⏎").replace("\r", "").replace("|", "¦").replace("`", "'")
    return f"`{plain}`" if plain else ""
