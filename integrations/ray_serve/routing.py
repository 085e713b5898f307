"""Which replica gets a request, and why: the home of its session, unless that is busy; else the one with least to do.

Knows names of replicas and their loads. Does not know Ray or requests' contents. The home is the replica with the
greatest hash of session and replica (rendezvous hashing, Thaler and Ravishankar 1998): every router finds the same one
without a table, and a replica that comes or goes moves only the sessions that get it or had it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from .hints import Hints


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a router knows of a replica. `ongoing`: requests there. `expected`: output tokens of the
    requests that this router has there."""

    replica: str
    ongoing: int = 0
    expected: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Replicas in the order in which they are to be asked. `home`: of the session, "" without one. `why`: the reason
    for the first."""

    order: tuple[str, ...]
    home: str
    why: str

    def reason(self, replica: str) -> str:
        """Returns why `replica` got the request: it may be a later one, where the first took no more."""
        if not self.order or replica == self.order[0]:
            return self.why
        return f"{self.order[0]} took no more requests ({self.why})"


def routed(hints: Hints, loads: Sequence[Load], busy: int) -> Route:
    """Returns the route of a request. `busy`: ongoing requests at which a home counts as busy; half of them for a
    request of priority 1. Replicas that were lost with the request come last."""
    known = [load for load in loads if load.replica not in hints.avoid] or list(loads)
    idle = sorted(known, key=_to_do)
    lost = [load.replica for load in loads if load not in known]
    if not idle:
        return Route(order=(), home="", why="no replica is known")
    if not hints.session:
        return _route(idle, lost, "", f"no session; least to do of {len(known)}")
    home = max(known, key=lambda load: _score(hints.session, load.replica))
    others = [load for load in idle if load is not home]
    limit = max(1, busy >> hints.priority)
    if home.ongoing < limit or not others or others[0].ongoing >= home.ongoing:
        return _route([home, *others], lost, home.replica, "home of the session")
    spilled = f"spilled: the home {home.replica} has {home.ongoing} requests, {limit} are busy"
    return _route([*others, home], lost, home.replica, spilled)


def _route(order: Sequence[Load], lost: Sequence[str], home: str, why: str) -> Route:
    return Route(order=(*(load.replica for load in order), *lost), home=home, why=why)


def _to_do(load: Load) -> tuple[int, int, str]:
    return load.expected, load.ongoing, load.replica


def _score(session: str, replica: str) -> bytes:
    return blake2b(f"{session}\n{replica}".encode(), digest_size=8).digest()
