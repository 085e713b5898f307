"""The replicas behind a deployment handle of Ray's, and its errors as ours.

Knows Ray's handles and exceptions. Does not know what is asked. Whatever ends a call but an error of the replica's own
code means that the replica, its node or the way there is lost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from ..server.refusals import TooManyWaiting
from .dispatch import ReplicaLost
from .replica import About
from .work import Answered, Batch, Exchanged, Sent, Work

_METRICS: Final = 5.0
"""Seconds for the replicas' metrics."""


@dataclass(frozen=True, slots=True)
class RayReplicas:
    """`Replicas` by a handle of their deployment."""

    handle: DeploymentHandle[Any]

    async def events(self, work: Work) -> AsyncGenerator[str | Batch]:
        """Yields the replica's name, then its events. Closing it cancels the call there."""
        coming = self._with(work).options(method_name="events", stream=True).remote(work)
        try:
            async for got in coming:
                yield got
        except (RayError, DeploymentUnavailableError, BackPressureError) as error:
            raise _ours(error) from error
        finally:
            coming.cancel()

    async def answer(self, asked: Exchanged) -> Answered:
        """Returns a replica's response."""
        coming = self._with(asked).options(method_name="answer").remote(asked)
        try:
            found: Answered = await coming
        except (RayError, DeploymentUnavailableError, BackPressureError) as error:
            raise _ours(error) from error
        return found

    async def about(self) -> About:
        """Returns what a replica serves, once there is one."""
        found: About = await self.handle.options(method_name="about").remote()
        return found

    async def metrics(self) -> Mapping[str, str]:
        """Returns the metrics of every replica that answers in time, by its name."""
        found = await self.handle.broadcast("metrics").results_async(timeout_s=_METRICS, return_exceptions=True)
        return dict(one for one in found if isinstance(one, tuple))

    def _with(self, sent: Sent) -> DeploymentHandle[Any]:
        """Returns the handle with the session, for Ray's own routers."""
        return self.handle.options(session_id=sent.hints.session) if sent.hints.session else self.handle


def _ours(error: Exception) -> Exception:
    """Returns the error as the dispatcher knows it; one of the replica's own code as it is."""
    if isinstance(error, BackPressureError):
        return TooManyWaiting("more requests wait for replicas than may; try again later", retry_after=1)
    if isinstance(error, RayTaskError) and not isinstance(error, TaskCancelledError):
        return error
    return ReplicaLost("", f"{type(error).__name__}: {error}".splitlines()[0])
