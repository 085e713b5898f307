"""`/health`, `/ready`, `/metrics`: what orchestrators and Prometheus ask.

Knows the service. Does not know the APIs.
"""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..service import Service


async def health(request: Request) -> Response:
    """Answers 200 while the process serves: the engine's thread has not failed."""
    service: Service = request.app.state.service
    return JSONResponse({"status": "ok", "model": service.name, "live": service.engine.live})


async def ready(request: Request) -> Response:
    """Answers 200 while new requests are welcome; 503 while the server drains."""
    service: Service = request.app.state.service
    draining = service.runner.draining
    status = "draining" if draining else "ready"
    return JSONResponse({"status": status, "waiting": service.runner.queue.waiting}, 503 if draining else 200)


async def metrics(request: Request) -> Response:
    """Answers with all metrics in Prometheus' text format."""
    service: Service = request.app.state.service
    return Response(service.meters.text(), media_type=CONTENT_TYPE_LATEST)
