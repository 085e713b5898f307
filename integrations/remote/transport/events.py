"""Server-sent events, read from bytes as they arrive.

Knows the event stream format (WHATWG HTML, "Server-sent events"). Does not know what events mean. An event may be split
anywhere, also inside a character; lines end with \\n, \\r\\n or \\r.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

LONGEST: Final = 1 << 22
"""Number of characters that one event may have."""


class BadEvent(ValueError):
    """Bytes that are no event stream: not UTF-8, or one event without an end."""


@dataclass(slots=True)
class EventReader:
    """Reads the data of events. Other fields and comments are skipped, as the format asks."""

    _decode: Any = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("strict"))
    _rest: str = ""
    _data: list[str] = field(default_factory=list)
    _begun: bool = False

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Yields the data of each event that `chunk` completes. Raises BadEvent."""
        try:
            self._rest += self._decode.decode(chunk)
        except UnicodeDecodeError as error:
            raise BadEvent(f"bytes that are not UTF-8: {error.object[error.start : error.start + 8]!r}") from None
        if not self._begun and self._rest:
            self._begun, self._rest = True, self._rest.removeprefix("\ufeff")
        while (line := self._line()) is not None:
            if (data := self._take(line)) is not None:
                yield data
        if len(self._rest) + sum(map(len, self._data)) > LONGEST:
            raise BadEvent(f"an event of more than {LONGEST} characters")

    def _line(self) -> str | None:
        """Returns the next complete line. A \\r at the end waits, because a \\n may follow."""
        ends = [at for mark in ("\r", "\n") if (at := self._rest.find(mark)) >= 0]
        if not ends or (self._rest[min(ends)] == "\r" and min(ends) + 1 == len(self._rest)):
            return None
        at = min(ends)
        line, rest = self._rest[:at], self._rest[at + 1 :]
        self._rest = rest[1:] if self._rest[at] == "\r" and rest.startswith("\n") else rest
        return line

    def _take(self, line: str) -> str | None:
        """Returns the data of an event that the line ends, else None."""
        if not line:
            data, self._data = self._data, []
            return "\n".join(data) if data else None
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
        return None

    @property
    def pending(self) -> bool:
        """Whether there is a part of an event whose end did not come."""
        return bool(self._data or self._rest.strip())
