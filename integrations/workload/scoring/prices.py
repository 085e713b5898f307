"""A price table: what tokens of an API cost, or an hour of a machine.

Knows TOML. Does not know runs beyond their names. A table is named by an engine (`local`) or, stronger, by a run
(`"local:ar"`); prices per token are those of a million.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..calls import Usage
from ..refusals import PriceRefused, Unreadable
from ..values import number

MILLION: Final = 1e6
HOUR: Final = 3600.0
_TOKENS: Final = ("input", "cached_input", "output")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Either `hour`, for a machine, or prices of a million tokens. `cached_input` is `input` where it is not given."""

    hour: float | None = None
    input: float = 0.0
    cached_input: float | None = None
    output: float = 0.0

    def of(self, usage: Usage, share: float | None) -> float | None:
        """Returns what a call cost; None where what it depends on is not known. `share`: the seconds of the machine
        that were the call's, each second divided among the calls in it."""
        if self.hour is not None:
            return None if share is None else self.hour * share / HOUR
        if usage.input is None or usage.output is None:
            return None
        cached = usage.cached or 0
        read = self.input if self.cached_input is None else self.cached_input
        return ((usage.input - cached) * self.input + cached * read + usage.output * self.output) / MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """`currency`: as it is printed. `tables`: by engine or run."""

    currency: str = ""
    tables: Mapping[str, Price] = field(default_factory=dict)

    def of(self, run: str) -> Price | None:
        """Returns the price of a run, by its name or that of its engine; None where there is none."""
        return self.tables.get(run) or self.tables.get(run.partition(":")[0])


def read_prices(path: Path) -> Prices:
    """Reads a price table. Raises PriceRefused, which names the table and the key."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PriceRefused(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise PriceRefused(f"{path}: {error}") from None
    currency = found.pop("currency", "")
    if not isinstance(currency, str):
        raise PriceRefused(f"{path}: currency={currency!r}: expected a text, such as 'USD'")
    return Prices(currency=currency, tables={name: _price(path, name, table) for name, table in found.items()})


def _price(path: Path, name: str, table: Any) -> Price:
    where = f"{path}: [{name}]"
    if not isinstance(table, dict) or not table:
        raise PriceRefused(f"{where}: expected `hour`, or prices of a million tokens: {', '.join(_TOKENS)}")
    if unknown := sorted(set(table) - {"hour", *_TOKENS}):
        raise PriceRefused(f"{where}: unknown key {unknown[0]!r}; known: hour, {', '.join(_TOKENS)}")
    if "hour" in table and len(table) > 1:
        raise PriceRefused(f"{where}: an hour of a machine and prices of tokens; leave one of them out")
    try:
        return Price(**{key: number(value, key) for key, value in table.items()})  # type: ignore[arg-type]
    except Unreadable as error:
        raise PriceRefused(f"{where}: {error}") from None
