"""llama.cpp as a peer, by a `llama-server` compiled for this machine, in a process of its own: the one that
TRIMODE_LLAMA_SERVER names, or that of PATH.

Knows the server's arguments and what it prints when it starts. `make llama-server` compiles one.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import subprocess
import time
from contextlib import closing
from http.client import HTTPConnection
from tempfile import NamedTemporaryFile
from typing import Any, Final

from .llama_completion import Match, completed, fastest, setting_of, vectors_of
from .peer_protocol import Answered, Asked, CannotRun, Setup

VARIABLE: Final = "TRIMODE_LLAMA_SERVER"
"""Environment variable with the path of a `llama-server`."""
_LISTENING: Final = re.compile(r"listening on http://(\S+)")
_TRACE: Final = "4"
"""Verbosity at which it prints its processor features: some lines a call, none a token."""
_SECONDS: Final = 60
"""Until a model is loaded."""


def start(setup: Setup) -> NativeLlamaCpp:
    """The faster of the settings, where there are several."""
    return fastest(setup, NativeLlamaCpp)


def server_path() -> str:
    """Raises CannotRun where there is no llama-server."""
    named = os.environ.get(VARIABLE, "")
    found = shutil.which(named or "llama-server")
    if found is None:
        where = f"{VARIABLE}={named}" if named else f"{VARIABLE} is not set, and PATH has no llama-server"
        raise CannotRun(f"no llama.cpp compiled here ({where}): make llama-server, or name one")
    return found


class NativeLlamaCpp:
    """One server process; `match`: of its n-gram drafts, None for none."""

    version: str
    setting: str
    pid: int

    def __init__(self, setup: Setup, match: Match | None) -> None:
        with NamedTemporaryFile(prefix="llama-server-", suffix=".log") as log:
            self._process = subprocess.Popen(
                _words(server_path(), setup, match), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            atexit.register(self.close)
            self.place: str = self._ready(log.name)
            features = vectors_of(_text(log.name))
        self.version = f"llama.cpp {self._props()['build_info']} ({features})"
        self.setting, self.pid = setting_of(match), self._process.pid

    def run(self, asked: Asked) -> Answered:
        return completed(self.place, asked)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _ready(self, log: str) -> str:
        """Waits for the model; returns host:port. Raises CannotRun."""
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                lines = _text(log).strip().splitlines()
                raise CannotRun(f"llama-server ended with code {self._process.returncode}: {lines[-1][:200]}")
            found = _LISTENING.search(_text(log))
            if found is not None and _status(found[1], "/health")[0] == 200:
                return found[1]
            time.sleep(0.02)
        self.close()
        raise CannotRun(f"llama-server was not ready in {_SECONDS} s")

    def _props(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(_status(self.place, "/props")[1])
        return found


def _words(server: str, setup: Setup, match: Match | None) -> list[str]:
    said: dict[str, object] = {
        "model": setup.gguf, "ctx-size": setup.context, "parallel": 1, "threads": setup.threads,
        "threads-batch": setup.threads, "host": "127.0.0.1", "port": 0, "verbosity": _TRACE,
    }  # fmt: skip
    if match is not None:
        said |= {
            "spec-type": "ngram-simple",
            "spec-ngram-simple-size-n": match[0],
            "spec-ngram-simple-size-m": match[1],
        }
    return [server, *(word for name, value in said.items() for word in (f"--{name}", str(value)))]


def _status(place: str, path: str) -> tuple[int, bytes]:
    with closing(HTTPConnection(place)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
