"""`trimode serve --replicas` as a process: it starts a Ray of its own, serves, and ends what runs after SIGTERM."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from served import LONG, chat, documents, held_to

from trimode.policy.audit import read_audit, records, verify

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@contextmanager
def served(audit: Path) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Yields the process and its URL. Ray gives itself 30 s to start; where others work too it is tried again."""
    command = [sys.executable, "-m", "trimode", "serve", "--replicas", "1", "--port", "0", "--audit", str(audit)]
    for _ in range(3):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            found = next((line for line in process.stderr if '"serving"' in line), None)
            if found is None:
                continue
            rest = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
            try:
                yield process, json.loads(found)["url"]
            finally:
                process.terminate()
                process.wait(120)
                rest.wait(120)
            return
    raise AssertionError("Ray did not start")


def test_the_command_serves_and_ends_what_runs_after_sigterm(tmp_path: Path) -> None:
    asked = chat(response_format=held_to(LONG), max_completion_tokens=800, trimode={"mode": "ar"}, stream=True)
    with served(tmp_path / "audit.jsonl") as (process, url), httpx.Client(base_url=url, timeout=600) as client:
        assert client.get("/ready").status_code == 200
        with client.stream("POST", "/v1/chat/completions", json=asked) as response:
            process.send_signal(signal.SIGTERM)  # the response has begun
            response.read()
        assert documents(response.text)[-1] == "[DONE]"
        assert process.wait(120) == 0
    (trail,) = tmp_path.glob("audit-*.jsonl")
    assert verify(trail) == []
    assert len(records(read_audit(trail))) == 1
