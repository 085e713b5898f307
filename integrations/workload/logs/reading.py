"""Log files to recorded calls: which format a file has, and where in it a record is that cannot be read.

Knows files and the readers of each format. Does not know engines. Nothing is skipped silently: a line that cannot be
read is an error, or with `lenient` counted; what a format does not say is counted by `RecordedCall.lacks`.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from trimode.engine.errors import TrimodeError
from trimode.policy.audit import read_audit

from ..calls import Log, RecordedCall
from ..refusals import LogRefused, Unreadable
from .audit_log import audit_calls
from .episode_log import episode_calls
from .openai_log import openai_calls
from .span_log import span_calls
from .spans import holds_spans, spans_in

Found = Iterator[RecordedCall | str]
KNOWN: Final = (
    "an audit file, lines of {request, response}, spans as OTLP JSON or as Phoenix or MLflow export them, or recorded "
    "episodes"
)
UNREADABLE: Final = "lines that cannot be read"
_BROKEN: Final = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)
"""What readers raise for records of another shape."""


def read_logs(paths: Sequence[Path], lenient: bool = False) -> Log:
    """Returns the calls of all files in order. Raises LogRefused; with `lenient`, lines that cannot be read are counted
    instead."""
    calls, left_out = list[RecordedCall](), Counter[str]()
    for path in paths:
        for found in _file(path, lenient):
            if isinstance(found, RecordedCall):
                calls.append(found)
            else:
                left_out[found] += 1
    return Log(names=tuple(path.name for path in paths), calls=tuple(calls), left_out=dict(left_out))


def _file(path: Path, lenient: bool) -> Found:
    first = _first_line(path)
    if first.startswith('{"schema_version"'):
        return _audit(path, lenient)
    begin = _parsed(first)
    if isinstance(begin, dict) and "source" in begin and ("steps" in begin or "text" in begin):
        return _episodes(path)
    if isinstance(begin, dict) and ("request" in begin or "response" in begin):
        return _lines(path, lenient, lambda number, line: openai_calls(path, number, line))
    if holds_spans(begin):
        return _lines(path, lenient, lambda number, line: _spans(path, number, line))
    whole = _whole(path)
    if not holds_spans(whole):
        raise LogRefused(path, 1, f"expected {KNOWN}; found {first[:60]!a}")
    return _numbered(path, lenient, [(1, whole)], lambda number, document: _spans(path, number, document))


def _audit(path: Path, lenient: bool) -> Found:
    for line in read_audit(path):
        if line.record is not None:
            yield from audit_calls(line.record, f"{line.file}:{line.number}")
        elif lenient:
            yield UNREADABLE
        else:
            raise LogRefused(path.with_name(line.file or path.name), line.number, line.problem)


def _episodes(path: Path) -> Found:
    try:
        yield from episode_calls(path)
    except LogRefused:
        raise
    except TrimodeError as error:
        raise LogRefused(path, 0, str(error)) from None


def _spans(path: Path, number: int, document: Any) -> Found:
    for at, span in enumerate(spans_in(document), start=1):
        yield from span_calls(span, f"{path.name}:{number}:{at}")


def _lines(path: Path, lenient: bool, read: Callable[[int, Any], Found]) -> Found:
    return _numbered(path, lenient, enumerate(_texts(path), start=1), read)


def _numbered(path: Path, lenient: bool, lines: Iterable[tuple[int, Any]], read: Callable[[int, Any], Found]) -> Found:
    """Yields what `read` makes of each line. `lines`: numbered texts, or documents."""
    for number, line in lines:
        if isinstance(line, str) and not line.strip():
            continue
        try:
            yield from list(read(number, json.loads(line) if isinstance(line, str) else line))
        except _BROKEN as error:
            if not lenient:
                raise LogRefused(path, number, _why(error)) from None
            yield UNREADABLE


def _why(error: BaseException) -> str:
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}"
    return f"a record of another shape ({type(error).__name__}: {str(error)[:120]})"


def _texts(path: Path) -> Iterator[str]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise LogRefused(path, 0, f"not UTF-8: {error.reason}") from None
    except EOFError as error:
        raise LogRefused(path, 0, str(error)) from None


def _first_line(path: Path) -> str:
    found = next((line for line in _texts(path) if line.strip()), None)
    if found is None:
        raise LogRefused(path, 0, f"the file is empty; expected {KNOWN}")
    return found.strip()


def _whole(path: Path) -> Any:
    try:
        return json.loads("".join(_texts(path)))
    except (ValueError, RecursionError) as error:
        raise LogRefused(path, getattr(error, "lineno", 0), f"expected {KNOWN}; not JSON: {error}") from None


def _parsed(line: str) -> Any:
    """Returns the JSON of a line, None where it is none by itself."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
