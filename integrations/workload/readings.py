"""One measured call, as it is kept, and the file of earlier results that a run goes on from.

Knows plain values and JSON lines. Does not know engines. A reading holds no text: scores, times and counts only.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, Final, Self

from .refusals import StoreRefused

HEADER: Final[dict[str, str | int]] = {"format": "trimode workload results", "version": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One call by one run. `sha256`: of what was asked; `identity`: of what answered. `error`: the error's class, empty
    for an answer.

    `score`, `valid`, `names`, `arguments`, `fields`, `prose`: as in `Agreement`; an error scores 0. `first`, `last`:
    seconds to the first and last token; `share`: seconds of the machine, each divided among the calls in it.
    """

    call: str
    sha256: str
    run: str
    identity: str = ""
    error: str = ""
    score: float = 0.0
    valid: bool | None = None
    names: bool | None = None
    arguments: bool | None = None
    fields: float | None = None
    prose: float | None = None
    first: float | None = None
    last: float | None = None
    share: float | None = None
    input: int | None = None
    cached: int | None = None
    output: int | None = None
    passes: int | None = None

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.call, self.sha256, self.run, self.identity


_NAMES: Final = frozenset(field.name for field in fields(Reading))


class Store:
    """Results so far, and the file that keeps new ones, if there is one. Threads may share it."""

    def __init__(self, path: Path | None = None) -> None:
        self._lock, self._file = threading.Lock(), None
        self.torn: bool = False
        self._kept: dict[tuple[str, str, str, str], Reading] = {}
        if path is not None:
            self._kept = {one.key: one for one in self._earlier(path)}
            self._file = self._opened(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: tuple[str, str, str, str]) -> Reading | None:
        return self._kept.get(key)

    def add(self, reading: Reading) -> None:
        """Keeps a result; in the file at once, so that an end of the process loses nothing that was measured."""
        with self._lock:
            self._kept[reading.key] = reading
            if self._file is not None:
                given = {name: value for name, value in asdict(reading).items() if value is not None}
                self._file.write(json.dumps(given) + "\n")
                self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _earlier(self, path: Path) -> Iterable[Reading]:
        """Yields the results in the file. A torn last line, of a process that was killed, is cut off."""
        if not path.exists() or not path.stat().st_size:
            return
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        self.torn = len(whole) < len(data)
        lines = whole.decode("utf-8", "replace").split("\n")[:-1]
        if not lines or _object(path, 1, lines[0]) != HEADER:
            raise StoreRefused(f"{path}: no results of `trimode workload`; --store names a new file or one of its own")
        if self.torn:
            os.truncate(path, len(whole))
        for number, line in enumerate(lines[1:], start=2):
            yield _reading(path, number, line)

    @staticmethod
    def _opened(path: Path) -> IO[str]:
        try:
            file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise StoreRefused(f"{path}: {error.strerror}") from None
        if not file.tell():
            file.write(json.dumps(HEADER) + "\n")
            file.flush()
        return file


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise StoreRefused(f"{path}:{number}: expected a JSON object")
    return found


def _reading(path: Path, number: int, line: str) -> Reading:
    found = _object(path, number, line)
    if set(found) - _NAMES or not {"call", "sha256", "run"} <= set(found):
        raise StoreRefused(f"{path}:{number}: expected a result of `trimode workload`, found {', '.join(found)[:80]}")
    return Reading(**found)
