"""The peer `llamacpp-native`: a llama-server that is found, started, asked and ended, or not found, or not starting.

A script stands in for the server here; tests/peers runs a compiled one where there is one.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from trimode.integrations.bench import with_llamacpp_native as native
from trimode.integrations.bench.llama_completion import vectors_of
from trimode.integrations.bench.peer_process import PeerProcess
from trimode.integrations.bench.peer_protocol import Asked, CannotRun, Setup

SERVER = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if words["--model"] == "missing.gguf":
    sys.exit("error loading model: missing.gguf")
print("system_info: n_threads = 1 | CPU : AVX2 = 1 | AVX512 = 1 | AVX512_VNNI = 1 |", flush=True)
match = int(words.get("--spec-ngram-simple-size-n", 0))


class Handler(BaseHTTPRequestHandler):
    def answer(self, found):
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"build_info": "b7-abc"})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["prompt"] == [9]:
            return self.answer({"error": {"message": "the prompt is too long"}})
        if match == 12:  # the slower setting
            time.sleep(0.2)
        times = {"prompt_ms": 20, "predicted_ms": 30, "predicted_n": 3}
        self.answer({"tokens": [match, len(asked.get("json_schema", ())), asked["n_predict"]], "timings": times})

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", int(words["--port"])), Handler)
print(f"main: listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of llama-server."""
    path = tmp_path / "llama-server"
    path.write_text(f"#!{sys.executable}\n{SERVER}", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(native.VARIABLE, str(path))
    return path


def setup(drafts: bool = False, **more: Any) -> Setup:
    fields: dict[str, Any] = {
        "peer": "llamacpp-native", "gguf": "model.gguf", "directory": "", "drafts": drafts, "dtype": "float32",
        "threads": 1, "context": 64, "ends": (2,), "probe": (5, 6), "max_tokens": 4, "folder": "",
    }  # fmt: skip
    return Setup(**{**fields, **more})


@pytest.mark.usefixtures("server")
def test_it_says_its_build_answers_and_ends_with_the_peers_process() -> None:
    process = PeerProcess(setup())
    assert process.version == "llama.cpp b7-abc (built for AVX512, AVX512_VNNI)"
    assert process.setting == "keys and values in fp16, no drafts"
    answer = process.run(Asked(prompt=(1, 2), max_tokens=7, schema='{"type": "object"}'))
    assert (answer.ids, answer.prefill_seconds, answer.decode_seconds, answer.decode_tokens) == (
        (0, 1, 7),
        0.02,
        0.03,
        2,
    )
    with pytest.raises(CannotRun, match="the prompt is too long"):
        process.run(Asked(prompt=(9,), max_tokens=7))
    size = process.close()
    assert size is not None
    assert size > 0


@pytest.mark.usefixtures("server")
def test_of_two_settings_of_drafts_the_faster_one_stays() -> None:
    found = native.start(setup(drafts=True))
    assert found.setting == "keys and values in fp16, ngram-simple, match 3, draft 10"
    assert found.run(Asked(prompt=(1,), max_tokens=4)).ids == (3, 0, 4)
    assert Path(f"/proc/{found.pid}").exists()
    found.close()
    with pytest.raises(ProcessLookupError):
        os.kill(found.pid, 0)


@pytest.mark.usefixtures("server")
def test_a_server_that_does_not_start_is_listed_with_its_last_words() -> None:
    with pytest.raises(CannotRun, match=r"ended with code 1: error loading model: missing\.gguf"):
        PeerProcess(setup(gguf="missing.gguf"))


def test_without_a_server_the_report_says_how_to_make_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(native.VARIABLE, raising=False)
    with pytest.raises(CannotRun, match=r"PATH has no llama-server\): make llama-server"):
        native.server_path()
    monkeypatch.setenv(native.VARIABLE, "/nowhere/llama-server")
    with pytest.raises(CannotRun, match="TRIMODE_LLAMA_SERVER=/nowhere/llama-server"):
        native.server_path()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("CPU : AVX = 1 | AVX2 = 1 | LLAMAFILE = 1", "built for AVX2"),
        ("CPU : AVX2 = 1 | AVX_VNNI = 1 | AVX512 = 1 | AVX512_BF16 = 1", "built for AVX512, AVX512_BF16, AVX_VNNI"),
        ("CPU : NEON = 1 | DOTPROD = 1", "built for NEON, DOTPROD"),
        ("CPU : LLAMAFILE = 1", "built without vectors"),
    ],
)
def test_what_a_build_was_made_for(said: str, expected: str) -> None:
    assert vectors_of(said) == expected
