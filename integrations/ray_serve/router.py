"""The request router of Ray Serve that keeps sessions at home, and tells each replica why it was chosen.

Knows Ray's router interface. Does not know how a replica is chosen: `routing.py` does. The interface hands a router the
request's arguments, so hints travel in them, and the route goes back the same way. It has no place for a priority among
waiting requests: priority changes only when a session leaves a busy home.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from .routing import Load, routed
from .work import Sent


class SessionRouter(RequestRouter):
    """Sessions by rendezvous hashing, other requests by least expected work."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._busy = 1
        self._expected = Counter[str]()
        self._sent: dict[str, tuple[str, int]] = {}

    def initialize_state(self, busy: int) -> None:
        """Takes the settings. `busy`: requests at which a session leaves its home."""
        self._busy = busy

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Returns the replicas in the order in which they are to be asked, one a rank."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # else a full cluster is asked without a pause
        sent = _sent(pending_request)
        if sent is None:
            return [candidate_replicas]
        known = {one.replica_id.unique_id: one for one in candidate_replicas}
        route = routed(sent.hints, [self._load(one) for one in candidate_replicas], self._busy)
        sent.route = route
        return [[known[name]] for name in route.order]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: object) -> None:  # noqa: ARG002
        """Counts the expected tokens of a request under its replica."""
        sent = _sent(pending_request)
        if sent is not None:
            self._sent[pending_request.metadata.internal_request_id] = replica_id.unique_id, sent.hints.expected
            self._expected[replica_id.unique_id] += sent.hints.expected

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:  # noqa: ARG002
        """Takes them off again."""
        replica, expected = self._sent.pop(internal_request_id, ("", 0))
        self._expected[replica] -= expected
        self._expected += Counter()  # forgets replicas that have nothing to do

    def _load(self, replica: RunningReplica) -> Load:
        name = replica.replica_id.unique_id
        ongoing = self.replica_queue_len_cache.get(replica.replica_id) or 0
        return Load(replica=name, ongoing=ongoing, expected=self._expected[name])


def _sent(pending: PendingRequest) -> Sent | None:
    """Returns what the door sends, which is the first argument of all that it calls under hints."""
    first = pending.args[0] if pending.args else None
    return first if isinstance(first, Sent) else None
