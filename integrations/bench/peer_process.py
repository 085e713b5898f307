"""A peer in a process of its own, as this process sees it: started, asked, ended.

Knows pipes and deadlines. Does not know any peer: what runs there is `peer_worker.py`. Whatever goes wrong there, a
crash included, is a reason for the report, never the end of the benchmark.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from tempfile import TemporaryFile
from typing import IO, Any, Final

from . import peer_protocol as protocol
from .peer_protocol import Answered, Asked, CannotRun, Setup

_WORKER: Final = f"{__package__}.peer_worker"
_START_SECONDS: Final = 420
"""Until a peer is ready: a builder may have to write a model first."""
_CALL_SECONDS: Final = 120


class PeerProcess:
    """One peer with one setting. `version` and `setting`: what it says of itself."""

    version: str
    setting: str

    def __init__(self, setup: Setup) -> None:
        """Starts the process and waits until it is ready. Raises CannotRun."""
        self.name: str = setup.peer
        self._errors: IO[bytes] = TemporaryFile()  # noqa: SIM115  closed with the process
        self._waiting = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", _WORKER, json.dumps(asdict(setup))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            start_new_session=True,  # so that a server which the peer started ends with it
            env={**os.environ, "OMP_NUM_THREADS": str(setup.threads)},
        )
        try:
            ready = self._answer("ready", _START_SECONDS)
        except CannotRun:
            self.close()
            raise
        self.version, self.setting = ready["version"], ready["setting"]

    def run(self, asked: Asked) -> Answered:
        """Runs one call. Raises CannotRun."""
        self._send(protocol.line("asked", asked))
        return protocol.answered_of(self._answer("answered", _CALL_SECONDS))

    def close(self) -> int | None:
        """Ends the process; returns the most bytes that it had in memory, None where it does not say."""
        found = None
        try:
            self._send(protocol.line("stop", ""))
            found = int(self._answer("stopped", 10)["resident_bytes"])
        except CannotRun:
            pass
        self._kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                pipe.close()
        return found

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise CannotRun(self._ended()) from None

    def _answer(self, expected: str, seconds: float) -> Any:
        """The fields of the next line. Raises CannotRun where it is a refusal, or does not come."""
        kind, fields = protocol.message(self._line(seconds))
        if kind != expected:
            raise CannotRun(str(fields))
        return fields

    def _line(self, seconds: float) -> str:
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while b"\n" not in self._waiting:
                if not selector.select(seconds):
                    self._kill()
                    raise CannotRun(f"no answer in {seconds:.0f} s")
                piece = os.read(out, 1 << 16)
                if not piece:
                    raise CannotRun(self._ended())
                self._waiting += piece
        text, _, self._waiting = self._waiting.partition(b"\n")
        return text.decode()

    def _kill(self) -> None:
        """Ends the process and those that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _ended(self) -> str:
        """How the process ended, and the last that it printed."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"its process ended with code {code}: {lines[-1][:200] if lines else 'nothing printed'}"
