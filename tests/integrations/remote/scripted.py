"""A server on loopback that does what a script says, byte by byte, so that faults can be played."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

MODEL: Final = "scripted"
EVENTS: Final = "text/event-stream"
_HEAD: Final = "HTTP/1.1 {status} Scripted\r\nContent-Type: {kind}\r\n{more}Connection: close\r\n\r\n"


@dataclass(slots=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


Play = Callable[[socket.socket, Asked], None]
"""Plays one answer."""


@dataclass
class Scripted:
    """A listening server. `script`: what it plays for calls, the last one again and again; `lists`: what `/v1/models`
    and other paths answer. `gone`: set when a caller has closed the connection before the answer was complete."""

    script: list[Play]
    lists: dict[str, Any] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0), backlog=64))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)
    _open: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    @property
    def calls(self) -> list[Asked]:
        """The requests that asked for output."""
        return [one for one in self.asked if one.method == "POST"]

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._one, args=(connection,), daemon=True)
            self._open.append(connection)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        with_closed(self.listener)
        self.listener.close()
        for connection in [*self._open]:
            with_closed(connection)
        for thread in [*self._threads]:
            thread.join(timeout=5)

    def _one(self, connection: socket.socket) -> None:
        try:
            with connection:
                asked = _request(connection)
                if asked is None:
                    return
                with self._lock:
                    self.asked.append(asked)
                    play = None
                    if asked.method == "POST":
                        play = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                if play is None:
                    self._listed(connection, asked.path)
                    return
                self.begun.set()
                play(connection, asked)
        except OSError:
            self.gone.set()

    def _listed(self, connection: socket.socket, path: str) -> None:
        found = self.lists.get(path, {"data": [{"id": MODEL}]} if path == "/v1/models" else None)
        send_json(connection, 404 if found is None else 200, found or {"error": {"message": "no such path"}})


@contextmanager
def playing(*script: Play, lists: Mapping[str, Any] | None = None) -> Generator[Scripted]:
    """Yields a server that plays the script."""
    server = Scripted([*script], dict(lists or {}))
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(timeout=5)


def with_closed(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _request(connection: socket.socket) -> Asked | None:
    found = b""
    while b"\r\n\r\n" not in found:
        part = connection.recv(65536)
        if not part:
            return None
        found += part
    head, _, body = found.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65536)
    method, path, _ = first.split(" ")
    return Asked(method, path, headers, json.loads(body) if body else None)


def send_json(connection: socket.socket, status: int, document: Any, more: str = "") -> None:
    head = _HEAD.format(status=status, kind="application/json", more=more)
    connection.sendall(head.encode() + json.dumps(document).encode())


def failing(status: int, more: str = "", message: str = "it is broken") -> Play:
    """Plays an error."""
    return lambda connection, _: send_json(connection, status, {"error": {"message": message}}, more)


def raw(data: bytes, kind: str = EVENTS, status: int = 200) -> Play:
    """Plays bytes under a content type, then closes the connection."""
    head = _HEAD.format(status=status, kind=kind, more="").encode()
    return lambda connection, _: connection.sendall(head + data)


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One chunk of a chat stream."""
    delta = {} if text is None else {"content": text}
    return {"id": "r1", "model": MODEL, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def event(document: Any) -> bytes:
    return f"data: {document if isinstance(document, str) else json.dumps(document)}\n\n".encode()


USAGE: Final = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}


def answer(*texts: str, finish: str = "stop", usage: Any = USAGE, **more: Any) -> bytes:
    """The bytes of a complete stream."""
    last = [] if usage is None else [{"choices": [], "usage": usage, **more}]
    parts: list[Any] = [*map(chunk, texts), chunk(finish=finish), *last, "[DONE]"]
    return b"".join(map(event, parts))


def answering(*texts: str, **more: Any) -> Play:
    """Plays a complete answer."""
    return raw(answer(*texts, **more))


def keeping(value: Callable[[Asked], str]) -> Play:
    """Plays the text that `value` makes of the request."""

    def play(connection: socket.socket, asked: Asked) -> None:
        raw(answer(value(asked)))(connection, asked)

    return play


def kept(asked: Asked) -> str:
    """The only value that the schema of a probe allows, as JSON."""
    return json.dumps(asked.body["response_format"]["json_schema"]["schema"]["enum"][0])


def held(*plays: Play) -> list[Play]:
    """A script whose first answer keeps the constraint of a probe."""
    return [keeping(kept), *plays]


def dropping(parts: Iterable[bytes]) -> Play:
    """Plays the beginning of a stream, then resets the connection as a killed process does."""

    def play(connection: socket.socket, _: Asked) -> None:
        connection.sendall(_HEAD.format(status=200, kind=EVENTS, more="Transfer-Encoding: chunked\r\n").encode())
        for part in parts:
            connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")

    return play


def silent(after: bytes = b"") -> Play:
    """Plays the beginning of an answer and then nothing, until the caller leaves."""

    def play(connection: socket.socket, _: Asked) -> None:
        if after:
            connection.sendall(_HEAD.format(status=200, kind=EVENTS, more="").encode() + after)
        if not connection.recv(1):
            raise ConnectionError

    return play
