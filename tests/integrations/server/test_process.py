"""`trimode serve` as a process of its own: it serves, drains on SIGTERM, and what it recorded survives SIGKILL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from served import LONG, chat, client_of, held_to

from trimode.policy.audit import read_audit, records, verify
from trimode.policy.calls import Engine

PATH = "/v1/chat/completions"


@dataclass
class Process:
    """A server, its address, and the lines of its log so far."""

    popen: subprocess.Popen[str]
    url: str = ""
    log: list[dict[str, Any]] = field(default_factory=list)
    _reader: threading.Thread | None = None

    def read_on(self, stream: IO[str]) -> None:
        """Reads until the address is told, and goes on reading in a thread, so that the process never has to wait."""
        for line in stream:
            self.log.append(json.loads(line))
            if self.log[-1]["message"] == "serving":
                self.url = self.log[-1]["url"]
                break
        self._reader = threading.Thread(target=lambda: self.log.extend(json.loads(line) for line in stream))
        self._reader.start()

    def ended(self) -> int:
        code = self.popen.wait(60)
        assert self._reader is not None
        self._reader.join()
        return code


@contextmanager
def serving(*options: str) -> Generator[Process]:
    command = [sys.executable, "-m", "trimode", "serve", "--port", "0", *options]
    environment = {**os.environ, "TRIMODE_SLOTS": "4"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as popen:
        assert popen.stderr is not None
        process = Process(popen)
        try:
            process.read_on(popen.stderr)
            yield process
        finally:
            popen.kill()


def test_sigterm_lets_streams_end(tmp_path: Path) -> None:
    with serving("--audit", str(tmp_path / "audit.jsonl")) as process:
        body = chat(stream=True, response_format=held_to(LONG), max_completion_tokens=900)
        with httpx.stream("POST", f"{process.url}{PATH}", json=body, timeout=60) as reply:
            lines = reply.iter_lines()
            assert next(lines).startswith("data: ")
            process.popen.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.ended() in (0, -signal.SIGTERM)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{process.url}/health")
    assert verify(tmp_path / "audit.jsonl") == []
    messages = [line["message"] for line in process.log]
    assert "draining" in messages
    (request,) = [line for line in process.log if line["message"] == "request"]
    assert (request["status"], request["path"], request["finish"]) == (200, PATH, "stop")
    assert request["output_tokens"] > 100
    assert "apples" not in json.dumps(process.log)


def test_sigkill_leaves_a_file_that_verifies(tmp_path: Path, reference: Engine) -> None:
    file = tmp_path / "audit.jsonl"
    with serving("--audit", str(file)) as process:
        assert httpx.post(f"{process.url}{PATH}", json=chat(), timeout=60).status_code == 200
        body = chat(stream=True, response_format=held_to(LONG), max_completion_tokens=900)
        with httpx.stream("POST", f"{process.url}{PATH}", json=body, timeout=60) as reply:
            lines = reply.iter_lines()
            next(lines)
            process.popen.kill()
            with pytest.raises(httpx.TransportError):
                list(lines)
        process.ended()
    assert verify(file) == []
    with client_of(reference, audit=file) as client:  # a server that starts again goes on with the file
        assert client.post(PATH, json=chat()).status_code == 200
    assert verify(file) == []
    assert len(records(read_audit(file))) == 2
