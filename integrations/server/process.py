"""The process that serves: a loaded engine, uvicorn, SIGTERM.

Knows uvicorn and signals. Does not know requests. After SIGTERM or SIGINT nothing new begins, what runs has `drain`
seconds to end, and the engine is closed; a second signal ends at once.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import uvicorn
from starlette.applications import Starlette

from trimode.engine.errors import TrimodeError
from trimode.policy.calls import Engine

from .app import create_app
from .logs import log_as_json
from .settings import ServerSettings

LOG: Final = logging.getLogger("trimode.server")
_IDLE: Final = 75
"""Seconds that a connection may be kept between requests: longer than proxies keep theirs."""


class NotListening(TrimodeError):
    """The address cannot be listened on."""


class DrainingServer(uvicorn.Server):
    """uvicorn, with an app that knows that it is to end."""

    def __init__(self, config: uvicorn.Config, app: Starlette) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        service = getattr(self._app.state, "service", None)
        if service is not None and not service.runner.draining:
            service.runner.draining = True
            LOG.info("draining", extra={"fields": {"live": service.engine.live, "signal": sig}})
        super().handle_exit(sig, frame)


def serve(settings: ServerSettings) -> None:
    """Loads the engine and serves until a signal ends it. Raises NotListening, and what `Engine.load` raises."""
    log_as_json(settings.log_level)
    listening = listen(settings.host, settings.port)
    with (
        listening,
        Engine.load(settings.model, device=settings.device, dtype=settings.dtype, kv_bytes=settings.kv_bytes) as engine,
    ):
        app = create_app(engine, settings)
        host, port = listening.getsockname()[:2]
        where = {"url": f"http://{f'[{host}]' if ':' in host else host}:{port}", "engine": repr(engine)}
        LOG.info("serving", extra={"fields": where})
        if not settings.loopback and settings.api_key_file is None:
            LOG.warning("anyone who reaches this address may use the engine: there is no api_key_file")
        DrainingServer(config_of(app, settings), app).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket. Raises NotListening before a model is loaded in vain."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise NotListening(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    # asyncio sets TCP_NODELAY only where the protocol is named; without it a body waits some 40 ms for the
    # acknowledgement of its headers.
    return socket.socket(made.family, made.type, socket.IPPROTO_TCP, fileno=made.detach())


def config_of(app: Starlette, settings: ServerSettings) -> uvicorn.Config:
    """Returns uvicorn's configuration. Its own logs go where ours go."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=int(settings.drain),
    )


@contextmanager
def in_thread(engine: Engine, settings: ServerSettings) -> Generator[str]:
    """Yields the address of a server on a free port of loopback, in a thread; it ends with the block."""
    app = create_app(engine, settings)
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(config_of(app, settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
