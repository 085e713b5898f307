"""`trimode audit report`: an audit file as one HTML page that needs no network.

Knows audit files and the template. Does not know how values are formatted. A page shows at most CALLS calls and TOKENS
tokens, and names what it leaves out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from markupsafe import Markup

from trimode.engine.errors import RequestError
from trimode.policy.audit import COLOURS, EMPTY, ORIGINS, read_audit, verify

from .call_view import modes
from .frame import Frame, asset, filled
from .summary import Numbered, filters, groups, remarks, runs, totals, verdict

CALLS: Final = 2_000
"""Rows on a page."""
TOKENS: Final = 20_000
"""Output tokens in the details of a page; a browser on a phone still scrolls through them."""
MODES: Final = ("ar", "diffusion", "linear_spec", "quadratic_spec", "lookup_spec")


def write(file: str | os.PathLike[str], out: str | os.PathLike[str], calls: str = ":") -> str:
    """Writes the page and returns a description of its content. Raises RequestError for a bad range,
    AuditFileRefused for the file, OSError for the page."""
    page, description = render(file, calls)
    Path(out).write_text(page, encoding="utf-8")
    return description


def render(file: str | os.PathLike[str], calls: str = ":") -> tuple[str, str]:
    """Returns the page and a description of its content. `calls`: FIRST:LAST, both included."""
    first, last = _range(calls)
    lines = read_audit(file)
    readable = [
        Numbered(line=at, record=line.record) for at, line in enumerate(lines, start=1) if line.record is not None
    ]
    requested = [call for call in readable if first <= call.line <= last]
    chosen = requested[:CALLS]
    opened = _opened(chosen)
    shown, found = [call.record for call in chosen], verdict(lines, verify(file))
    description = f"{len(chosen)} of {len(readable)} calls, {len(opened)} of them with their tokens"
    shown_runs = list(runs(chosen, opened, found.lines))
    frame = Frame(
        name=Path(file).name,
        kind="audit",
        first=("calls", "the calls"),
        good=found.good,
        word="✓ Verified" if found.good else "✗ Does not verify",
        sentence=found.sentence,
        totals=list(totals(shown)),
        remarks=list(remarks(len(readable), len(requested), chosen, opened)),
        style=Markup(f"{_origin_style()}{asset('report.css')}"),
        script=Markup(f"{asset('shared.js')}\n{asset('report.js')}"),
    )
    page = filled(
        "report.html",
        frame,
        verdict=found,
        groups=list(groups(shown)),
        runs=shown_runs,
        filters=filters(shown_runs),
        modes=[mode for mode in MODES if any(mode in modes(record) for record in shown)],
        origins=ORIGINS,
        empty=EMPTY,
    )
    return page, description


@cache
def _origin_style() -> str:
    """Returns the origins' colours, as variables and as rules of `.o`."""
    variables = "".join(
        f"--{code}-bg: light-dark({', '.join(one.background)}); --{code}: light-dark({', '.join(one.line)}); "
        for code, one in COLOURS.items()
    )
    rules = [
        f".o.{code} {{ background: var(--{code}-bg); text-decoration: underline {one.style} var(--{code}); }}\n"
        for code, one in COLOURS.items()
    ]
    return f":root {{ {variables}}}\n{''.join(rules)}"


def _range(given: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d*):(\d*)", given)
    if found is None:
        raise RequestError(f"calls={given!r}: expected FIRST:LAST, such as 1:50, 200: or :10")
    first, last = (int(text) if text else None for text in found.groups())
    return first or 1, 10**18 if last is None else last


def _opened(calls: Sequence[Numbered]) -> frozenset[int]:
    """Returns the lines of the first calls whose tokens fit on the page together."""
    remaining, found = TOKENS, []
    for call in calls:
        remaining -= call.record.counts.output_tokens if call.record.counts else 0
        if remaining < 0:
            break
        found.append(call.line)
    return frozenset(found)
