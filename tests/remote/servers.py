"""Real servers as processes: llama.cpp's and vLLM's, each in an environment of its own (`make test-remote`)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import httpx

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAM: Final = Path(__file__).parent / "programs" / "llamacpp.py"
VLLM: Final = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
START: Final = 600.0
"""Seconds that a server may take to begin; vLLM takes minutes on a busy machine."""


@dataclass(slots=True)
class Running:
    """A server that answers. `kill` ends it as `kill -9` does."""

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


def python_of(name: str) -> Path:
    """The interpreter of an environment that `make test-remote` has made."""
    return Path(os.environ.get("TRIMODE_REMOTE", ROOT / ".remote")) / name / "bin" / "python"


@contextmanager
def llamacpp(model: Path, parallel: int = 2) -> Generator[Running]:
    """llama.cpp's server over a GGUF file."""
    command = [str(python_of("llamacpp")), str(PROGRAM), str(model), str(parallel)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    with _ending(process):
        assert process.stdout is not None
        yield _answering(process.stdout.readline().decode().strip(), process)


@contextmanager
def vllm(model: Path, *more: str) -> Generator[Running]:
    """vLLM's server over a directory."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [
        str(python_of("vllm")), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        "--served-model-name", "reference", "--dtype", "float32", "--max-model-len", "1024", "--enforce-eager",
        "--host", "127.0.0.1", "--port", str(port), "--enable-per-request-metrics", *more,
    ]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **VLLM, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        with _ending(process):
            yield _answering(f"http://127.0.0.1:{port}", process, log)


@contextmanager
def _ending(process: subprocess.Popen[bytes]) -> Generator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()


def _end_of(log: IO[bytes] | None) -> str:
    """The last that a server wrote."""
    if log is None:
        return ""
    log.seek(0)
    return log.read().decode("utf-8", "replace")[-2000:]


def _answering(url: str, process: subprocess.Popen[bytes], log: IO[bytes] | None = None) -> Running:
    end = time.monotonic() + START
    while time.monotonic() < end:
        assert process.poll() is None, f"the server ended before it answered: {_end_of(log)}"
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return Running(url, process)
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"{url} did not answer in {START:g} s")
