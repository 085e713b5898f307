"""Autoregressive decoding (nld.md §4a): one causal pass a token. The reference that every exact mode must equal."""

from __future__ import annotations

from ..run import Run
from ..segment import Passes


def decode(run: Run) -> Passes:
    while run.goes_on():
        yield from run.next_token()
