"""What llama.cpp's server is asked for a completion, and what it answers; the settings of its n-gram drafts.

Knows HTTP and the server's JSON. Does not know where the server runs. Greedy; every prompt is read anew. Its times: the
prompt until the first token is chosen, and the rest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from typing import Any, Final, Protocol, TypeVar

from .peer_protocol import Answered, Asked, CannotRun, Setup

Match = tuple[int, int]
"""Of n-gram drafts: tokens that have to match, tokens that are drafted."""
_MATCHES: Final[tuple[Match, ...]] = ((12, 48), (3, 10))
"""Settings that are compared: llama.cpp's default, and that of Hugging Face's prompt lookup."""
_GREEDY: Final = {"temperature": 0.0, "samplers": ["top_k"], "top_k": 1, "cache_prompt": False, "return_tokens": True}


class _Server(Protocol):
    def run(self, asked: Asked) -> Answered: ...
    def close(self) -> None: ...


Server = TypeVar("Server", bound=_Server)


def fastest(setup: Setup, start: Callable[[Setup, Match | None], Server]) -> Server:
    """Starts a server; of several settings of drafts the one that answers the probe faster, and closes the others."""
    if not setup.drafts:
        return start(setup, None)
    asked = Asked(prompt=setup.probe, max_tokens=setup.max_tokens)
    found = [start(setup, match) for match in _MATCHES]
    chosen = min(found, key=lambda server: min(server.run(asked).seconds for _ in range(2)))
    for server in found:
        if server is not chosen:
            server.close()
    return chosen


def setting_of(match: Match | None) -> str:
    drafts = "no drafts" if match is None else f"ngram-simple, match {match[0]}, draft {match[1]}"
    return f"keys and values in fp16, {drafts}"


def vectors_of(system_info: str) -> str:
    """Returns the widest vectors that a build knows, and its instructions for products of short numbers."""
    known = [name for name in ("AVX512", "AVX2", "NEON") if f"{name} = 1" in system_info][:1]
    short = [name for name in ("AVX512_VNNI", "AVX512_BF16", "AVX_VNNI", "DOTPROD") if f"{name} = 1" in system_info]
    return f"built for {', '.join(known + short)}" if known else "built without vectors"


def completed(place: str, asked: Asked) -> Answered:
    """Asks the server at `place` (host:port). Raises CannotRun where it refuses."""
    fields: dict[str, Any] = {**_GREEDY, "prompt": list(asked.prompt), "n_predict": asked.max_tokens}
    if asked.schema is not None:
        fields["json_schema"] = json.loads(asked.schema)
    body = json.dumps(fields).encode()
    begin = time.perf_counter()
    text = posted(place, body)
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


def posted(place: str, body: bytes) -> bytes:
    """Returns the answer. The server closes connections that nobody uses for a while, so each call has its own."""
    with closing(HTTPConnection(place)) as connection:
        connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
        return connection.getresponse().read()
