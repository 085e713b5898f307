"""`/v1/decisions` and `/v1/systemone` under the server's limits, keys, sessions and queue.

Knows the service and which function answers each path. Does not know the documents: `decisions.py` does.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..asks.ask import Ask
from ..service import Service
from ..transport.connection import while_connected
from ..transport.exchange import exchange
from .decisions import Answer, decided, system_one

NAME: Final = "model"


async def decisions(request: Request) -> Response:
    """Answers `POST /v1/decisions`."""
    return await _answered(request, decided)


async def systemone(request: Request) -> Response:
    """Answers `POST /v1/systemone`."""
    return await _answered(request, system_one)


async def _answered(request: Request, answer: Answer) -> Response:
    """Answers in a slot of the caller's; a model that is named has to be this server's."""
    served = await exchange(request)
    if isinstance(name := served.body.get(NAME), str):
        served.check_model(name)
    service: Service = request.app.state.service
    engine, caller = service.engine, served.caller
    work = answer(engine, served.body, caller.tenant, service.calibration)
    found = await while_connected(request.receive, service.runner.in_slot(Ask(caller=caller), work))
    served.log["record"] = found["trimode"]["record"]
    return JSONResponse({**found, NAME: served.service.name})
