"""Settings of the cluster: how many replicas, what each takes, and who chooses among them.

Knows names, types and ranges. Does not know Ray. What one replica serves with is in the server's own settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..server.settings import ServerSettings, SettingsRefused

Router = Literal["session", "ray-session", "ray-prefix", "ray"]
ROUTERS: Final[dict[Router, str]] = {
    "session": "trimode.integrations.ray_serve.router.SessionRouter",
    "ray-session": "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter",
    # Its public name, in ray.serve.llm, imports the packages of ray[llm], of which it needs none.
    "ray-prefix": "ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router.PrefixCacheAffinityRouter",
    "ray": "ray.serve._private.request_router.PowerOfTwoChoicesRequestRouter",
}
"""Routers by name: ours, with receipts; Ray's by session, by prefix, and by load."""


class ClusterSettings(BaseModel):
    """How many replicas there are and what each may take. Times are in seconds."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    replicas: int = Field(default=2, ge=1, description="Replicas; with `most`, the fewest.")
    most: int | None = Field(default=None, ge=1, description="Replicas at most; None: no autoscaling.")
    target: float = Field(default=8.0, gt=0, description="Live requests of a replica that autoscaling aims at.")
    up_after: float = Field(default=10.0, ge=0, description="Seconds of more load before replicas are added.")
    down_after: float = Field(default=300.0, ge=0, description="Seconds of less load before replicas are taken away.")
    cpus: float = Field(default=1.0, ge=0, description="CPUs of a replica, as Ray counts them.")
    gpus: float = Field(default=0.0, ge=0, description="GPUs of a replica, as Ray counts them.")
    threads: int | None = Field(default=None, ge=1, description="Threads of a replica's arithmetic; None: `cpus`.")
    doors: int = Field(default=1, ge=1, description="Processes that read requests.")
    router: Router = Field(default="session", description="Who chooses the replica of a request.")
    busy: int | None = Field(default=None, ge=1, description="Requests at which a session leaves home; None: `slots`.")
    health: float = Field(default=10.0, gt=0, description="Seconds between checks of a replica's health.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.most is not None and self.most < self.replicas:
            raise ValueError(f"most={self.most}: expected at least replicas={self.replicas}")
        return self


class Built(ClusterSettings):
    """The arguments of `serve run trimode.integrations.ray_serve.application:build`. `serve` has the server's settings,
    which a configuration file of Serve's may say; the two that are wanted most stand for themselves too."""

    serve: dict[str, Any] = Field(default={}, description="Settings of each replica's server.")
    model: str | None = Field(default=None, description="The checkpoint, as `serve.model`.")
    audit: str | None = Field(default=None, description="Audit file, one a replica, as `serve.audit`.")

    def cluster(self) -> ClusterSettings:
        return ClusterSettings(**{name: getattr(self, name) for name in ClusterSettings.model_fields})

    def server(self, environment: Mapping[str, str]) -> ServerSettings:
        """Returns the settings of each replica's server. Raises SettingsRefused."""
        return ServerSettings.gathered({"model": self.model, "audit": self.audit, **self.serve}, environment, None)


def built(args: Mapping[str, Any]) -> Built:
    """Returns the arguments of `serve run`. Raises SettingsRefused, which names the first that cannot be used."""
    try:
        return Built.model_validate(dict(args))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise SettingsRefused(f"{'.'.join(map(str, first['loc'])) or 'arguments'}: {first['msg']}") from None
