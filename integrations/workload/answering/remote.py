"""A server as a target, by `Engine.remote`.

Knows remote engines. Does not know HTTP or scores. Nothing is sent but to the URL that was named; what its cache
holds is the server's matter.
"""

from __future__ import annotations

import hashlib
from typing import Any

from trimode.policy.calls import Engine
from trimode.policy.selection import PolicyProtocol

from ..calls import RecordedCall
from .engine_target import AUTO, PACKAGE, EngineTarget, policy_of
from .portable import portable
from .targets import RunName


class RemoteTarget(EngineTarget):
    """One server, in the mode of one of its pools, or in those that the package's table takes."""

    def __init__(self, engine: Engine, run: RunName) -> None:
        mode = run.mode or PACKAGE
        super().__init__(run.name, engine, _policy(engine, mode, run))
        self._run, self._mode = run, mode

    def arguments(self, call: RecordedCall) -> dict[str, Any]:
        found = super().arguments(call)
        return {**found, "messages": portable(found["messages"])} if "messages" in found else found

    @property
    def identity(self) -> str:
        runtime = self._engine.runtime
        parts = (self._run.url, self._run.kind, runtime.model, runtime.kernels, self._mode)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _policy(engine: Engine, mode: str, run: RunName) -> PolicyProtocol:
    found: PolicyProtocol = engine.auto if mode == AUTO else policy_of(mode, engine.weights.modes, f"--run {run.name}")
    return found
