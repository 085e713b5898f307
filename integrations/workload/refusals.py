"""Errors of workload logs and of the files beside them. Messages name the file, and the line where there is one."""

from __future__ import annotations

from pathlib import Path

from trimode.engine.errors import TrimodeError


class LogRefused(TrimodeError):
    """A log that cannot be read. `line`: from 1; 0 where the whole file is meant."""

    path: Path
    line: int

    def __init__(self, path: Path, line: int, why: str) -> None:
        super().__init__(f"{path}:{line}: {why}" if line else f"{path}: {why}")
        self.path, self.line = path, line


class Unreadable(ValueError):
    """A record that is not what its format says; the reader of the file adds where it stands."""


class PriceRefused(TrimodeError):
    """A price table that cannot be used."""


class RunRefused(TrimodeError):
    """A `--run`, `--quality` or `--baseline` that names nothing known."""


class RouteRefused(TrimodeError):
    """A policy file without the promises that `trimode workload` writes, or with others than its format has."""


class StoreRefused(TrimodeError):
    """A file of earlier results that is none, or that cannot be written."""
