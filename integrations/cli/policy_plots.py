"""The plots of `trimode policy`: expected numbers of this machine, and recorded ones of an audit trail.

Knows matplotlib, which is an extra. Does not compute the numbers (`policy/audit/statistics.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimode.engine.errors import TrimodeError

if TYPE_CHECKING:
    from trimode.policy.audit import CallRecord
    from trimode.policy.selection import CostModel


def expected(path: Path, cost: CostModel, rows: Sequence[dict[str, Any]]) -> None:
    """Draws two panels: seconds of a pass by rows; expected tokens/s of each variant by step kind."""
    figure = _figure(12, 5)
    left, right = figure.subplots(1, 2)
    for label, curve in (("base weights", cost.plain), ("with the draft adapter", cost.adapted)):
        left.plot(curve.rows, [1e3 * seconds for seconds in curve.seconds], marker="o", label=label)
    left.set(xlabel="rows of a pass", ylabel="milliseconds", xscale="log", title="Cost of a pass")
    left.legend()
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of_kind = sorted((row for row in rows if row["kind"] == kind), key=lambda row: row["variant"])
        right.plot([row["tokens_per_s"] for row in of_kind], [row["variant"] for row in of_kind], "o", label=kind)
    right.set(xlabel="expected tokens/s (derived)", title="Variants by step kind")
    right.legend()
    figure.savefig(path, dpi=120)


def recorded(path: Path, records: Sequence[CallRecord]) -> None:
    """Draws three panels: acceptance by draft position; tokens/s by mode and step kind; diffusion by threshold."""
    figure = _figure(16, 5)
    left, middle, right = figure.subplots(1, 3)
    _acceptance(left, records)
    _speeds(middle, records)
    _qualities(right, records)
    figure.savefig(path, dpi=120)


def _acceptance(axes: Any, records: Sequence[CallRecord]) -> None:
    from trimode.policy.audit import acceptance

    for mode, positions in sorted(acceptance(records).items()):
        axes.plot(range(1, len(positions) + 1), [share for _, share in positions], marker="o", label=mode)
    axes.set(xlabel="position in the draft", ylabel="accepted, of those verified", ylim=(0, 1.05), title="Acceptance")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(axes)


def _speeds(axes: Any, records: Sequence[CallRecord]) -> None:
    from trimode.policy.audit import speeds

    rows = speeds(records)
    kinds = sorted({row.kind for row in rows})
    modes = sorted({row.mode for row in rows})
    width = 0.8 / max(len(modes), 1)
    for number, mode in enumerate(modes):
        of_mode = [row for row in rows if row.mode == mode]
        offsets = [kinds.index(row.kind) + (number - (len(modes) - 1) / 2) * width for row in of_mode]
        axes.bar(offsets, [row.tokens_per_s for row in of_mode], width, label=mode)
    axes.set(ylabel="tokens/s after prefill", title="Speed by mode and step kind")
    axes.set_xticks(range(len(kinds)), kinds)
    _legend(axes)


def _qualities(axes: Any, records: Sequence[CallRecord]) -> None:
    from trimode.policy.audit import qualities

    rows = qualities(records)
    lines = {
        "begins as in an exact mode": [row.begins_as for row in rows],
        "whole as in an exact mode": [row.as_exact for row in rows],
        "valid": [row.valid for row in rows],
    }
    for label, shares in lines.items():
        points = [(row.threshold, share) for row, share in zip(rows, shares, strict=True) if share is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.set(xlabel="threshold", ylabel="share", ylim=(0, 1.05), title="Diffusion: threshold and quality")
    if rows:
        speed = axes.twinx()
        thresholds, passes = [row.threshold for row in rows], [row.tokens_per_pass for row in rows]
        speed.plot(thresholds, passes, color="grey", linestyle="--")
        speed.set_ylabel("tokens a pass (dashed)")
    _legend(axes)


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    else:
        axes.text(0.5, 0.5, "nothing recorded", ha="center", transform=axes.transAxes)


def _figure(width: float, height: float) -> Any:
    try:
        return import_module("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    except ImportError as error:
        raise TrimodeError(f"--plot needs matplotlib ({error}): pip install 'trimode[plots]'") from None
