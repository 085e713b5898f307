"""The local engine in one mode as a target.

Knows the local engine. Does not know scores. Each mode has a cache scope of its own, so that none finds prefixes that
another has prefilled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trimode.engine.request import DecodeRequest
from trimode.policy.audit import versions
from trimode.policy.calls import Engine, call_of
from trimode.policy.selection import Auto

from ..calls import RecordedCall
from .engine_target import AUTO, PACKAGE, EngineTarget, policy_of, settings_of
from .targets import LOCAL


class LocalTarget(EngineTarget):
    """An engine in one mode, with options as `trimode bench` names them: `linear_spec:8`. `auto` begins with nothing
    learned, and what it learns here is kept nowhere."""

    def __init__(self, engine: Engine, mode: str) -> None:
        name, known = f"{LOCAL}:{mode}", engine.tokens.model.config.modes
        policy = Auto(engine.cost, modes=known) if mode == AUTO else policy_of(mode, known, f"--run {name}")
        super().__init__(name, engine, policy, f"workload {name}")
        self._mode = mode

    @property
    def settings(self) -> Mapping[str, Any] | None:
        return {} if self._mode in (AUTO, PACKAGE) else settings_of(self._mode, f"--run {self.name}").given()

    @property
    def identity(self) -> str:
        runtime, package = self._engine.runtime, versions()["trimode"]
        parts = (
            runtime.model_sha256, runtime.adapter_sha256, runtime.device, runtime.dtype, runtime.kernels,
            runtime.quantize, package, self._mode,
        )  # fmt: skip
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def prepare(self, call: RecordedCall) -> None:
        """Compiles the call's schema, and prefills the share of its prompt that was in the cache when it was recorded,
        which is what earlier calls of its loop had left there."""
        translator = self._engine.translator
        made = translator.written(call_of("workload", None, **self.arguments(call)))
        request = translator.request_and_notes(made, "oldest", None)[0]
        known = round(call.usage.cached_share * len(request.prompt))
        if known and isinstance(request, DecodeRequest):
            plain = replace(request, options=request.first_options, constraint=None, thinking=None)
            self._engine.tokens.decode(replace(plain, prompt=request.prompt[:known], max_tokens=1))
