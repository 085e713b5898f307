"""The Ray Serve application: a door and its replicas as deployments.

Knows Ray Serve's deployments. Does not know requests. `serve run trimode.integrations.ray_serve.application:build`
makes one from arguments or a configuration file of Serve's; `cluster_app` from settings in Python.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.deployment import Application, Deployment
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..server.logs import log_as_json
from ..server.settings import ServerSettings
from ..server.wire.headers import REQUEST_ID
from .door import Behind, door_app
from .handle import RayReplicas
from .replica import About, Replica
from .settings import ROUTERS, ClusterSettings, built
from .work import Answered, Batch, Exchanged, Work

DOOR: Final = "trimode-door"
REPLICAS: Final = "trimode-replicas"
_KILLED_AFTER: Final = 5.0
"""Seconds beyond `drain` after which Ray ends a replica that is to go."""


class EngineReplica:
    """The actor around a `Replica`."""

    def __init__(self, settings: ServerSettings) -> None:
        log_as_json(settings.log_level)
        self._replica = Replica.load(serve.get_replica_context().replica_id.unique_id, settings)

    async def events(self, work: Work) -> AsyncGenerator[str | Batch]:
        """Yields the replica's name, then events."""
        async with aclosing(self._replica.events(work)) as events:
            async for got in events:
                yield got

    async def answer(self, asked: Exchanged) -> Answered:
        """Returns the response to a whole request."""
        return await self._replica.answer(asked)

    async def about(self) -> About:
        """Returns what is served."""
        return self._replica.about()

    async def metrics(self) -> tuple[str, str]:
        """Returns the replica's name and its metrics."""
        return self._replica.metrics()

    def check_health(self) -> None:
        """Raises what stopped the engine; Ray then puts another replica in this one's place."""
        self._replica.check()

    def __del__(self) -> None:
        """Ray's last call, once nothing runs any more."""
        if hasattr(self, "_replica"):
            self._replica.close()


@serve.ingress()
class Door:
    """The actor around the door's app."""

    def __init__(self, engines: DeploymentHandle[Any], settings: ServerSettings) -> None:
        log_as_json(settings.log_level)
        self._replicas, self._settings = RayReplicas(engines), settings

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Returns the app, which Ray then serves."""
        known = self._replicas
        return _Unnamed(door_app(Behind(replicas=known, about=known.about, metrics=known.metrics), self._settings))


@dataclass(frozen=True, slots=True)
class _Unnamed:
    """The app without the header that names the request: Ray's proxy writes the same one."""

    app: Starlette

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)[REQUEST_ID]
            await send(message)

        await self.app(scope, receive, sent)


def cluster_app(server: ServerSettings | None = None, cluster: ClusterSettings | None = None) -> Application:
    """Returns the application. `server`: of each replica; `cluster`: how many there are and what each takes."""
    own, around = server or ServerSettings(), cluster or ClusterSettings()
    return _door(own, around).bind(_engines(own, around).bind(own), own)


def build(args: dict[str, Any]) -> Application:
    """Returns the application for `serve run`. `args`: as `Built` has them, or their text. Raises SettingsRefused."""
    given = built(args)
    return cluster_app(given.server(os.environ), given.cluster())


def _door(own: ServerSettings, around: ClusterSettings) -> Deployment:
    return serve.deployment(
        name=DOOR,
        num_replicas=around.doors,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=1 << 14,
        graceful_shutdown_timeout_s=own.drain + _KILLED_AFTER,
    )(Door)


def _engines(own: ServerSettings, around: ClusterSettings) -> Deployment:
    """Returns the deployment of the replicas. A replica takes as many requests as it has slots and waiting places."""
    router = {"busy": around.busy or own.slots} if around.router == "session" else {}
    threads = {} if around.threads is None else {"env_vars": {"OMP_NUM_THREADS": str(around.threads)}}
    return serve.deployment(
        name=REPLICAS,
        ray_actor_options={"num_cpus": around.cpus, "num_gpus": around.gpus, "runtime_env": threads},
        max_ongoing_requests=own.slots + own.queue,
        max_queued_requests=max(own.queue, 1),
        request_router_config=RequestRouterConfig(
            request_router_class=ROUTERS[around.router], request_router_kwargs=router
        ),
        health_check_period_s=around.health,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=own.drain + _KILLED_AFTER,
        **_number(around),
    )(EngineReplica)


def _number(around: ClusterSettings) -> dict[str, Any]:
    """Returns the number of replicas, or what it follows."""
    if around.most is None:
        return {"num_replicas": around.replicas}
    scaling = AutoscalingConfig(
        min_replicas=around.replicas,
        max_replicas=around.most,
        target_ongoing_requests=around.target,
        upscale_delay_s=around.up_after,
        downscale_delay_s=around.down_after,
    )
    return {"autoscaling_config": scaling}
