"""Tool calls as their JSON text grows: name and arguments, piece by piece.

Knows the JSON text that grammars write for calls. Does not know tokens, sections or streams.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class CallDelta:
    """What an event adds to a tool call. `index`: number of the call in its turn; `id`: as in the result.

    `name`: in the first event of a call, None later. `arguments`: the next piece of their JSON text.
    """

    index: int
    id: str
    name: str | None
    arguments: str


_NAME: Final = re.compile(r'\{"name":("(?:[^"\\]|\\.)*"),"arguments":')
"""The text of a call up to its arguments."""


@dataclass(slots=True)
class CallReader:
    """Reads the JSON texts of calls as they grow. `ids`: yields an id for each of them."""

    ids: Iterator[str]
    _index: int = -1
    _id: str = ""
    _head: str | None = None
    _depth: int = 0
    _quoted: bool = False
    _escaped: bool = False

    def feed(self, text: str) -> Iterator[CallDelta]:
        """Yields what `text` adds to calls; text between them adds nothing."""
        arguments = ""
        for character in text:
            if self._head is not None:
                self._head += character
                if found := _NAME.fullmatch(self._head):
                    yield self._opened(json.loads(found[1]))
            elif self._depth and not self._closes(character):
                arguments += character
            elif self._depth == 0 and character == "{":
                if arguments:
                    yield self._delta(arguments)
                arguments, self._head = "", character
        if arguments:
            yield self._delta(arguments)

    def _opened(self, name: str) -> CallDelta:
        self._index, self._id, self._head, self._depth = self._index + 1, next(self.ids), None, 1
        return CallDelta(index=self._index, id=self._id, name=name, arguments="")

    def _delta(self, arguments: str) -> CallDelta:
        return CallDelta(index=self._index, id=self._id, name=None, arguments=arguments)

    def _closes(self, character: str) -> bool:
        """Returns whether `character` ends the call, after counting it."""
        if self._quoted:
            self._quoted = self._escaped or character != '"'
            self._escaped = character == "\\" and not self._escaped
        elif character == '"':
            self._quoted = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
        return self._depth == 0
