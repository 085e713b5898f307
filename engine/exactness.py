"""What an engine may promise of its kernels: rows that agree in any company, and with them exact modes that do.

Knows kernels and the answer of `kernels/agreement.py`, and what follows from it. Does not know modes.
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
"""What `engine.kernels` says."""


def exactness(runner: Runner) -> Exactness:
    """Asks the runner's kernels, with its weights. Raises RowsDisagree where they break what they promise."""
    kernels = runner.kernels
    if not kernels.exact:
        return "not promised"
    # Triton's interpreter takes seconds for a pass; what it shows of a device's arithmetic is tested, not probed.
    if kernels.queued and runner.embedding.device.type != "cuda":
        return "not checked"
    found = disagreement(kernels, runner.stack)
    if found is not None:
        raise RowsDisagree(kernels.name, found)
    return "checked"
