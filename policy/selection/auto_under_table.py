"""`policy="auto"` together with a policy file: the file decides, and `auto` chooses where the file gives no mode.

Knows how the two act as one policy, with a name and a digest of both. Does not know sessions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .auto import Auto
from .policies import DecodePlan, Layer, Policy, StepContext, resolve
from .pool_auto import PoolAuto

if TYPE_CHECKING:
    from trimode.engine.result import DecodeResult


@dataclass(frozen=True, slots=True)
class Guided:
    """A fixed table, and a policy that learns for the steps that the table leaves open."""

    table: Policy
    auto: Auto | PoolAuto

    @property
    def name(self) -> str:
        return f"{self.auto.name} under {self.table.name}"

    @property
    def version(self) -> str:
        return self.table.version

    @property
    def sha256(self) -> str:
        return hashlib.sha256(f"{self.table.sha256} {self.auto.sha256}".encode()).hexdigest()

    def resolve(self, context: StepContext) -> DecodePlan:
        return resolve(context, (self,), ())

    def layers(self, context: StepContext) -> list[Layer]:
        return self.table.layers(context)

    def choose_mode(self, plan: DecodePlan) -> DecodePlan:
        return replace(self.auto.choose_mode(plan), policy=self)

    def advise(self, plan: DecodePlan) -> DecodePlan:
        """Calls `choose_mode`, of which this is the former name, kept for one release."""
        return self.choose_mode(plan)

    def observe(self, plan: DecodePlan, result: DecodeResult) -> None:
        self.auto.observe(plan, result)

    def save(self) -> None:
        self.auto.save()
