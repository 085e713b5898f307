"""Our server over HTTP/2 by hypercorn, and an engine that asks it, in an environment with both. Prints what was seen.

Usage: http2.py FOLDER, where certificates are written. Prints JSON: the HTTP versions and the connections of all
requests, the texts of calls at once, the text of a stream, and how the server's record of a stream that was left ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import trimode as tm
from trimode.integrations.server.app import create_app
from trimode.integrations.server.settings import ServerSettings
from trimode.policy.audit import read_audit, records

ASK: list[dict[str, Any]] = [{"role": "user", "content": "How many apples?"}]
LONG: dict[str, Any] = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 200, "maxItems": 200}
App = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass
class Watched:
    """An ASGI app that notes the version and the client's address of every request."""

    app: App
    versions: set[str] = field(default_factory=set)
    clients: set[Any] = field(default_factory=set)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.versions.add(scope["http_version"])
            self.clients.add(tuple(scope["client"]))
        await self.app(scope, receive, send)


def certified(folder: Path) -> Any:
    """A configuration with a certificate for localhost, which this process trusts."""
    authority = import_module("trustme").CA()
    server = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    server.private_key_pem.write_to_path(str(folder / "key.pem"))
    for number, part in enumerate(server.cert_chain_pems):
        part.write_to_path(str(folder / "cert.pem"), append=number > 0)
    os.environ["SSL_CERT_FILE"] = str(folder / "ca.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    config = import_module("hypercorn.config").Config()
    config.bind, config.certfile, config.keyfile = (
        [f"localhost:{port}"],
        str(folder / "cert.pem"),
        str(folder / "key.pem"),
    )
    return config


def serving(app: App, config: Any) -> Callable[[], None]:
    """Starts the server in a thread, and returns what stops it."""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def run() -> None:
        await import_module("hypercorn.asyncio").serve(app, config, shutdown_trigger=stop.wait)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()

    def ended() -> None:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)

    return ended


async def asked(engine: tm.Engine) -> dict[str, Any]:
    """Calls at once over one connection, a stream, and one that is left early."""
    calls = [engine.agenerate(messages=ASK, seed=seed, temperature=1.0, max_tokens=16) for seed in range(6)]
    texts = [result.text for result in await asyncio.gather(*calls)]
    pieces = [event.text async for event in engine.astream(messages=ASK, max_tokens=16)]
    stream = engine.astream(messages=ASK, schema=LONG, max_tokens=700)
    await anext(stream)
    await stream.aclose()
    after = await engine.agenerate(messages=ASK, max_tokens=8)
    return {"texts": texts, "streamed": "".join(pieces), "after": after.text}


def main() -> None:
    with tm.Engine.load() as here:
        folder = Path(sys.argv[1])
        trail = folder / "audit.jsonl"
        app = Watched(create_app(here, ServerSettings(audit=trail)))
        config = certified(folder)
        stop = serving(app, config)
        try:
            with tm.Engine.remote(f"https://{config.bind[0]}", "trimode") as engine:
                found = asyncio.run(asked(engine))
        finally:
            stop()
        expected = [here.generate(messages=ASK, seed=one, temperature=1.0, max_tokens=16).text for one in range(6)]
        plain = here.generate(messages=ASK, max_tokens=16).text
    seen: dict[str, Any] = {
        "versions": sorted(app.versions),
        "connections": len(app.clients),
        "expected": expected,
        "plain": plain,
    }
    seen["errors"] = [record.error for record in records(read_audit(trail)) if record.error is not None]
    print(json.dumps({**found, **seen}))


if __name__ == "__main__":
    main()
