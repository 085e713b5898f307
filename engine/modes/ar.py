"""Autoregressive decoding (nld.md §4a): one causal pass per token. The reference that every exact mode must equal."""

from __future__ import annotations

from ..decoding.run import DecodeState
from ..decoding.segment import Passes


def decode(run: DecodeState) -> Passes:
    while run.continues():
        yield from run.next_token()
