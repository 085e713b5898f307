"""`Stats` of a remote call: the counts that the server gave, and NotReported for all others.

Knows counts. Does not know servers. A count that nobody gave is absent, because a zero would be read as a measurement.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final, NoReturn

from trimode.engine.result import Stats

from .errors import NotReported

NAMES: Final = tuple(field.name for field in fields(Stats))


class ReportedStats(Stats):
    """Counts of one remote call; `output_tokens` and `seconds` are always there. `getattr(stats, name, None)` is None
    for a count that the server did not give."""

    __slots__ = ()

    def __init__(self, **known: Any) -> None:
        for name, value in {"kernels": "remote", "mode_runs": (), **known}.items():
            if value is not None:
                object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # what pickle and copy look for
            raise AttributeError(name)
        raise NotReported(name)

    @property
    def known(self) -> dict[str, Any]:
        """The counts that are known, by name."""
        return {name: getattr(self, name) for name in NAMES if getattr(self, name, None) is not None}

    def __repr__(self) -> str:
        return f"ReportedStats({', '.join(f'{name}={value!r}' for name, value in self.known.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReportedStats) and self.known == other.known

    def __hash__(self) -> int:
        return hash(tuple(self.known.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.known,)


def _restored(known: dict[str, Any]) -> ReportedStats:
    return ReportedStats(**known)
