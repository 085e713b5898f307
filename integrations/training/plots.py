"""Curves of a run as pictures: loss and accepted tokens a draft by step.

Knows the log and matplotlib, which is an extra. Does not know training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from .folder import Folder

NOT_DRAWN: Final = (
    "curves were not drawn: pip install 'trimode[plots]' brings matplotlib, and log.jsonl has the numbers"
)
_WINDOW: Final = 20
"""Steps whose mean is drawn."""


def write_plots(folder: Folder) -> list[str]:
    """Writes loss.png and acceptance.png; returns a note where matplotlib is not installed."""
    lines = folder.lines()
    if not lines:
        return []
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return [NOT_DRAWN]

    def drawn(name: str, label: str, curves: dict[str, tuple[list[int], list[float]]]) -> None:
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel=label)
        for what, (steps, values) in curves.items():
            axes.plot(steps, values, label=what, marker="o" if len(steps) == 1 else None)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(folder.path / name, dpi=120)

    steps = [line["step"] for line in lines]
    held = [(line["step"], line["held_out"]) for line in lines if line["held_out"] is not None]
    accepted = {"training": (steps, _smooth(lines, "accepted"))}
    if held:
        accepted["held-out"] = ([step for step, _ in held], [value for _, value in held])
    drawn("loss.png", "loss", {"training": (steps, _smooth(lines, "loss"))})
    drawn("acceptance.png", "accepted tokens a draft", accepted)
    return []


def _smooth(lines: Sequence[dict[str, Any]], key: str) -> list[float]:
    values = [float(line[key]) for line in lines]
    means = [values[max(0, at - _WINDOW + 1) : at + 1] for at in range(len(values))]
    return [sum(mean) / len(mean) for mean in means]
