"""Differences between two recorded calls, or between two trails call by call.

Knows records. Does not know files or engines. Ids, hosts, times and prefix cache hits always differ and are
ignored. Of the rounds only the first different one is reported, because all later ones follow from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any, Final

from .record import CallRecord

_LEFT_OUT: Final = frozenset(
    {
        "call", "session", "start_ns", "end_ns", "counts.seconds", "counts.prefill_seconds", "counts.cached_tokens",
        "counts.prefill_passes", "served", "served.request", "served.choice", "served.attempt", "served.replica",
        "served.why",
    }
)  # fmt: skip
MISSING: Final = "(no such call)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference. `field`: a path into the record, such as `sampling.seed`, or `rounds[3].tokens`."""

    field: str
    a: str
    b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallDiff:
    """One pair of calls. `number` counts pairs from 1; `round`: the first that differs, None where none does. `a` and
    `b`: the ids of the calls."""

    number: int
    a: str
    b: str
    step: str
    round: int | None
    differences: tuple[Difference, ...]


def diff_calls(a: CallRecord, b: CallRecord, number: int = 1) -> CallDiff:
    """Compares request, engine and result of two calls, then the first different round, field by field."""
    found = [one for one in _walk("", _plain(a), _plain(b)) if one.field not in _LEFT_OUT]
    index, inside = _rounds(a, b)
    return CallDiff(number=number, a=a.call, b=b.call, step=a.step, round=index, differences=(*found, *inside))


def diff_trails(a: Sequence[CallRecord], b: Sequence[CallRecord]) -> list[CallDiff]:
    """Returns the pairs of calls that differ, paired in order."""
    return [pair for pair in _pairs(a, b) if pair.differences]


def _pairs(a: Sequence[CallRecord], b: Sequence[CallRecord]) -> Iterator[CallDiff]:
    for number, (one, other) in enumerate(zip_longest(a, b), start=1):
        if one is not None and other is not None:
            yield diff_calls(one, other, number)
        elif one is not None:
            yield _alone(number, one, Difference(field="call", a=one.call, b=MISSING))
        elif other is not None:
            yield _alone(number, other, Difference(field="call", a=MISSING, b=other.call))


def _alone(number: int, record: CallRecord, difference: Difference) -> CallDiff:
    return CallDiff(
        number=number, a=difference.a, b=difference.b, step=record.step, round=None, differences=(difference,)
    )


def _plain(record: CallRecord) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if name not in ("rounds", "host")}


def _rounds(a: CallRecord, b: CallRecord) -> tuple[int | None, list[Difference]]:
    for index, (one, other) in enumerate(zip_longest(a.rounds, b.rounds)):
        if one is None or other is None:
            return index, [Difference(field="rounds", a=str(len(a.rounds)), b=str(len(b.rounds)))]
        if found := list(_walk(f"rounds[{index}]", asdict(one), asdict(other))):
            return index, found
    return None, []


def _walk(path: str, a: Any, b: Any) -> Iterator[Difference]:
    """Yields the differences below `path`: of mappings key by key; of sequences the first index that differs."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            yield from _walk(f"{path}.{key}" if path else str(key), a.get(key), b.get(key))
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if a != b:
            at = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            yield Difference(field=f"{path}[{at}]", a=_item(a, at), b=_item(b, at))
    elif a != b:
        yield Difference(field=path, a=str(a), b=str(b))


def _item(values: Sequence[Any], at: int) -> str:
    return str(values[at]) if at < len(values) else f"(ends after {len(values)})"
