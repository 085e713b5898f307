"""Whether an engine promises exactness: kernels whose rows are invariant to the batch, and so exact modes that agree.

Knows kernels, the answer of `kernels/agreement.py`, and what follows from it. Does not know modes.
"""

from __future__ import annotations

from typing import Final, Literal

from trimode.kernels.ops import disagreement

from .errors import RowsDisagree
from .forward.runner import Runner

Exactness = Literal["checked", "not promised", "not checked"]
DESCRIPTIONS: Final[dict[Exactness, str]] = {
    "checked": "rows checked to agree",
    "not promised": "rows not promised to agree",
    "not checked": "rows not checked: interpreted",
}
"""Phrases for `engine.kernels`."""


def exactness(runner: Runner) -> Exactness:
    """Checks the runner's kernels with its weights. Raises RowsDisagree if they break their promise."""
    kernels = runner.kernels
    if not kernels.exact:
        return "not promised"
    # Triton's interpreter takes seconds per pass; what it shows of a device's arithmetic is covered by tests instead.
    if kernels.queued and runner.device.type != "cuda":
        return "not checked"
    found = disagreement(kernels, runner.stack)
    if found is not None:
        raise RowsDisagree(kernels.name, found)
    return "checked"
