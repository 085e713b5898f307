"""Policies, and `resolve`, the one place where a step's mode is chosen, with the reason as text.

    package defaults < configuration file < decorator < `with trimode.using(...)` < call argument

Knows layers of settings and policies. Does not know engines or prompts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

from trimode.engine.options import Controller
from trimode.engine.result import DecodeResult, Mode

from ..errors import PolicyError, shown
from .offers import ANY_WEIGHTS, Weights, offered
from .settings import DEFAULTS, PLANNED_KINDS, PlannedKind, Settings, check_entry, known_mode
from .toml_text import as_toml, expect_table, line_of, read_toml, shown_path, tool_table

Layer = tuple[str, Settings]
"""A label for where settings were given, and the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What a policy may look at: the step's kind and name, its schema's digest, and how many other calls the engine is
    running."""

    kind: PlannedKind
    name: str
    schema_sha256: str | None = None
    others: int = 0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A fixed table: settings by step kind and by step name (the name wins). `source`: path of the file it was read
    from, which reasons name.

    Raises PolicyError for settings that no call could run, and for an entry with mode diffusion without `exact=False`.
    """

    name: str = "default"
    version: str = "1"
    kinds: Mapping[str, Settings] = field(default_factory=dict)
    steps: Mapping[str, Settings] = field(default_factory=dict)
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for key, table in (("kinds", self.kinds), ("steps", self.steps)):
            if not isinstance(table, Mapping):
                raise PolicyError(f"{key}={shown(table)}: expected settings by name", (key,))
            for name, settings in table.items():
                try:
                    check_entry(settings, f"[{key}.{name}]")
                except PolicyError as error:
                    raise PolicyError(str(error), (key, name, *error.where)) from None

    @property
    def sha256(self) -> str:
        """The digest of the table's content."""
        return self._digest

    @cached_property
    def _digest(self) -> str:  # computed once, because every record carries it
        return hashlib.sha256(json.dumps(self._tables(), sort_keys=True).encode()).hexdigest()

    def resolve(self, context: StepContext) -> DecodePlan:
        """Returns the plan of a step by this table, completed from the package's. It depends on `context` only."""
        return resolve(context, (self,), ())

    def layers(self, context: StepContext) -> list[Layer]:
        """Returns this policy's settings for a step, the stronger layer last."""
        found: list[Layer] = []
        label = f"policy {self.name!r}" + (f" ({self.source})" if self.source not in ("", self.name) else "")
        if context.kind in self.kinds:
            found.append((f"{label} for {context.kind} steps", self.kinds[context.kind]))
        if context.name in self.steps:
            found.append((f"{label} for step {context.name!r}", self.steps[context.name]))
        return found

    def choose_mode(self, plan: DecodePlan) -> DecodePlan:
        """Returns `plan`, because a table's whole content is in its layers."""
        return plan

    def advise(self, plan: DecodePlan) -> DecodePlan:
        """Calls `choose_mode`, of which this is the former name, kept for one release."""
        return self.choose_mode(plan)

    def observe(self, plan: DecodePlan, result: DecodeResult) -> None:
        """Does nothing, because a table does not learn."""

    def to_toml(self) -> str:
        """Returns the text that `from_toml` reads as this policy."""
        return as_toml({"name": self.name, "version": self.version, **self._tables()})

    @classmethod
    def from_toml(cls, path: Path) -> Policy:
        """Reads `trimode.toml`, or `[tool.trimode]` of a pyproject.toml. Its name is the path where the file has none.

        Raises PolicyError, which names the line.
        """
        above = ("tool", "trimode") if path.name == "pyproject.toml" else ()
        table = tool_table(path) if above else read_toml(path)
        try:
            return replace(cls.from_table(table or {}, shown_path(path)), source=shown_path(path))
        except PolicyError as error:
            line = line_of(path.read_text(encoding="utf-8"), (*above, *error.where))
            raise PolicyError(f"{path}:{line}: {error}" if line else f"{path}: {error}", error.where) from None

    @classmethod
    def from_table(cls, table: Mapping[str, Any], name: str) -> Policy:
        """Returns a policy from parsed TOML; `name` is used where the table has none. Raises PolicyError, whose `where`
        is the path of keys to the wrong value. [workload] is for `trimode workload check`, and no part of the
        policy."""
        unknown = sorted(set(table) - {"name", "version", "kinds", "steps", "workload"})
        if unknown:
            raise PolicyError(f"unknown key {unknown[0]!r}; known: name, version, kinds, steps, workload", unknown[:1])
        for key in ("kinds", "steps"):
            expect_table(table.get(key, {}), f"[{key}]", (key,))
        wrong = sorted(set(table.get("kinds", {})) - set(PLANNED_KINDS))
        if wrong:
            known = ", ".join(PLANNED_KINDS)
            raise PolicyError(f"unknown step kind {wrong[0]!r}; known: {known}", ("kinds", wrong[0]))
        return cls(
            name=str(table.get("name", name)),
            version=str(table.get("version", "1")),
            kinds=_settings(table, "kinds"),
            steps=_settings(table, "steps"),
        )

    def _tables(self) -> dict[str, dict[str, dict[str, Any]]]:
        tables = {"kinds": self.kinds, "steps": self.steps}
        return {key: {name: settings.given() for name, settings in table.items()} for key, table in tables.items()}


def _settings(table: Mapping[str, Any], key: str) -> dict[str, Settings]:
    found = {}
    for name, options in table.get(key, {}).items():
        origin, at = f"[{key}.{name}]", (key, name)
        try:
            found[name] = Settings.of(expect_table(options, origin), origin)
        except PolicyError as error:
            raise PolicyError(str(error), (*at, *error.where)) from None
    return found


PACKAGE_POLICY: Final = Policy(
    name="trimode",
    kinds={
        "plan": Settings(mode="ar"),
        "tool_call": Settings(mode="linear_spec"),
        "json": Settings(mode="linear_spec"),
        "prose": Settings(mode="ar"),
        "choice": Settings(mode="ar"),  # candidates are scored by their probabilities under ar
        "turn": Settings(mode="ar"),  # each of its segments is planned by its own kind
        "thinking": Settings(mode="ar"),
    },
)
"""The package's own table: speculative decoding for structured output, `ar` for unconstrained text; exact
throughout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The expected cost of a plan: seconds, forward passes and tokens of decoding one output.

    `price`: the call's share of the seconds when other calls run at the same time. `regret`: price above that of the
    plan thought best, which is what exploring costs. `observed`: calls of this step seen so far. `prefill`: seconds to
    prefill a prompt of this step's average length.
    """

    seconds: float
    price: float
    passes: float
    tokens: float
    regret: float
    observed: float
    prefill: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePlan:
    """The resolved choice: a mode, every setting, and the reason for the mode.

    `exact`: only exact modes may serve the call; raises PolicyError with diffusion. `named`: a layer above the
    package's table gave the mode. `controller` may switch to another exact mode in mid-call. `forecast` comes from
    policies that predict. `notes` name requests of the caller that will not be met.
    """

    mode: Mode
    settings: Settings
    reason: str
    policy: PolicyProtocol
    context: StepContext
    exact: bool
    named: bool = True
    controller: Controller | None = None
    forecast: Forecast | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.exact and self.mode == "diffusion":
            raise PolicyError("an exact plan cannot decode in diffusion, which is approximate; allow exact=False")


class PolicyProtocol(Protocol):
    """A policy. Its name, version and digest are in every record."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    def resolve(self, context: StepContext) -> DecodePlan: ...
    def layers(self, context: StepContext) -> list[Layer]:
        """Returns the policy's settings for a step, the stronger layer last."""
        ...

    def choose_mode(self, plan: DecodePlan) -> DecodePlan:
        """Returns the plan of a step for which no layer gives a mode: `plan`, which has the package's mode, or another.

        For one release, `advise`, the former name of this method, is called on policies that have it.
        """
        ...

    def observe(self, plan: DecodePlan, result: DecodeResult) -> None:
        """Learns from the result of a plan of this policy."""
        ...


def resolve(
    context: StepContext,
    policies: Sequence[PolicyProtocol],
    given: Sequence[Layer],
    weights: Weights = ANY_WEIGHTS,
    below: Sequence[Layer] = (),
) -> DecodePlan:
    """Merges the package's table, the layers of `policies` and the `given` layers, each stronger than the ones before.

    Where no layer gives a mode, the package's table offers one that `weights` have, and each policy may replace it.
    `below`: settings of the function that was called, weaker than every policy.
    """
    layers = [*below, *(layer for policy in policies for layer in policy.layers(context)), *given]
    merged, mode, reason, author = DEFAULTS, "ar", "package defaults", "package defaults"
    for label, settings in [*PACKAGE_POLICY.layers(context), *layers]:
        merged = settings.over(merged)
        if settings.mode is not None:
            mode, author = settings.mode, label
            reason = f"{settings.mode}: {label}"
    chosen, named = known_mode(mode, author), any(settings.mode is not None for _, settings in layers)
    decoded = context.kind not in _NOT_DECODED or (context.kind == "choice" and not weights.scores)
    if not decoded:
        reason = _NOT_DECODED[context.kind]
    elif not named:
        chosen, why = offered(chosen, merged, weights)
        reason = f"{chosen}: {author}; {why}" if why else reason
        merged = replace(merged, mode=chosen)
    if merged.exact and chosen == "diffusion":
        raise PolicyError(f"exact=True, but {author} asks for diffusion, which is approximate; allow exact=False")
    plan = DecodePlan(
        mode=chosen,
        settings=merged,
        reason=reason,
        policy=policies[-1] if policies else PACKAGE_POLICY,
        context=context,
        exact=merged.exact is not False and chosen != "diffusion",
        named=named,
    )
    for policy in () if plan.named or not decoded else policies:
        plan = _chosen(policy, plan)
    return plan


CHOICE_REASON: Final = "choice: candidates are scored in one pass; no mode decodes them"
_NOT_DECODED: Final[dict[str, str]] = {
    "choice": CHOICE_REASON,
    "turn": "turn: each of its segments has a plan of its own",
}
"""Reasons for the plans of kinds that no mode decodes as a whole."""


def _chosen(policy: Any, plan: DecodePlan) -> DecodePlan:
    """Asks `policy` for the mode. The method's former name comes first, because a user's policy may have only that one,
    or override it; ours calls `choose_mode`."""
    choose = getattr(policy, "advise", None) or policy.choose_mode
    chosen: DecodePlan = choose(plan)
    return chosen
