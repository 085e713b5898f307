"""How far predictions of policies were off, as a table and a line. Knows rich. Does not predict or decode."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from trimode.policy.replay import Checks


def checks_table(checks: Checks) -> Table:
    """Returns a table of predictions beside what decoding the same held-out calls gave."""
    title = "predictions checked on held-out calls, which they were not made from"
    view = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in ("step", "policy"):
        view.add_column(column)
    for column in ("calls", "tokens/s predicted", "decoded", "error", "accepted predicted", "decoded", "x ar"):
        view.add_column(column, justify="right")
    for (step, _, _), check in checks.items():
        shares = (check.predicted_accepted, check.decoded_accepted)
        accepted = ["" if share is None else f"{share:.0%}" for share in shares]
        speeds = f"{check.predicted_tokens_per_s:.0f}", f"{check.decoded_tokens_per_s:.0f}", f"{check.error:+.0%}"
        view.add_row(Text(step), Text(check.policy), str(check.calls), *speeds, *accepted, f"{check.against_ar:.2f}")
    return view


def show(console: Console, checks: Checks, why: str) -> None:
    """Prints the checks and their median errors, or why there are none."""
    if not checks:
        console.print(f"predictions not checked: {why}", highlight=False, markup=False)
        return
    console.print(checks_table(checks))
    errors = [abs(check.error) for check in checks.values()]
    shares = [
        abs(check.predicted_accepted - check.decoded_accepted)
        for check in checks.values()
        if check.predicted_accepted is not None and check.decoded_accepted is not None
    ]
    line = f"prediction error (median): tokens/s {median(errors):.0%}"
    console.print(line + (f", acceptance {100 * median(shares):.0f} points" if shares else ""), highlight=False)
