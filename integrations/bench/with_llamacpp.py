"""llama.cpp as a peer, by the wheel `xllamacpp`: its server in this process, a connection a call.

Knows xllamacpp. Greedy; every prompt is read anew. Its times: the prompt until the first token is chosen, and the rest.
"""

from __future__ import annotations

import json
import time
from contextlib import closing
from http.client import HTTPConnection
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import urlsplit

import xllamacpp

from .peer_protocol import Answered, Asked, CannotRun, Setup

_MATCHES: Final = ((12, 48), (3, 10))
"""Settings of its n-gram drafts that are compared: tokens that have to match, tokens that are drafted. Its default, and
that of Hugging Face's prompt lookup."""
_GREEDY: Final = {"temperature": 0.0, "samplers": ["top_k"], "top_k": 1, "cache_prompt": False, "return_tokens": True}


def start(setup: Setup) -> LlamaCpp:
    """The faster of the settings, where there are several."""
    if not setup.drafts:
        return LlamaCpp(setup, None)
    asked = Asked(prompt=setup.probe, max_tokens=setup.max_tokens)
    found = [LlamaCpp(setup, match) for match in _MATCHES]
    return min(found, key=lambda engine: min(engine.run(asked).seconds for _ in range(2)))


def _built_for() -> str:
    """The widest vectors that its build knows: a wheel may know less than the processor."""
    known = str(xllamacpp.get_system_info())
    return next((f"built for {name}" for name in ("AVX512", "AVX2", "NEON") if f"{name} = 1" in known), "no vectors")


class LlamaCpp:
    """One server; `match`: of its n-gram drafts, None for none."""

    version: str
    setting: str

    def __init__(self, setup: Setup, match: tuple[int, int] | None) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = setup.gguf
        params.n_ctx, params.n_parallel, params.verbosity = setup.context, 1, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = setup.threads
        if match is not None:
            params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
            params.speculative.ngram_simple.size_n, params.speculative.ngram_simple.size_m = match
        self.server = xllamacpp.Server(params)
        self.place = urlsplit(self.server.listening_address).netloc
        self.version = f"xllamacpp {version('xllamacpp')} ({_built_for()})"
        drafts = "no drafts" if match is None else f"ngram-simple, match {match[0]}, draft {match[1]}"
        self.setting = f"keys and values in fp16, {drafts}"

    def run(self, asked: Asked) -> Answered:
        fields: dict[str, Any] = {**_GREEDY, "prompt": list(asked.prompt), "n_predict": asked.max_tokens}
        if asked.schema is not None:
            fields["json_schema"] = json.loads(asked.schema)
        body = json.dumps(fields).encode()
        begin = time.perf_counter()
        text = self._posted(body)
        seconds = time.perf_counter() - begin
        found: dict[str, Any] = json.loads(text)
        if "error" in found:
            raise CannotRun(str(found["error"].get("message", found["error"]))[:200])
        times = found["timings"]
        return Answered(
            ids=tuple(found["tokens"]),
            seconds=seconds,
            prefill_seconds=times["prompt_ms"] / 1000,
            decode_seconds=times["predicted_ms"] / 1000,
            decode_tokens=times["predicted_n"] - 1,
        )

    def _posted(self, body: bytes) -> bytes:
        """The answer to a request. The server closes connections that nobody uses for a while, so each has its own."""
        with closing(HTTPConnection(self.place)) as connection:
            connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
            return connection.getresponse().read()
