"""The one place where a step's mode is chosen, with its reason in words.

    package defaults < configuration file < decorator < `with trimode.using(...)` < call argument

Knows layers of settings and policies. Does not know engines or prompts.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

from trimode.engine.request import Controller
from trimode.engine.result import DecodeResult, Mode

from ..errors import PolicyError, shown
from .settings import DEFAULTS, STEP_KINDS, Settings, StepKind, check_entry, known_mode
from .toml_text import as_toml, line_of

Layer = tuple[str, Settings]
"""Where settings were said (in words) and what was said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What a policy may look at: the step's kind and name, its schema's digest, and the engine's other live calls."""

    kind: StepKind
    name: str
    schema_sha256: str | None = None
    others: int = 0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A fixed table: settings by step kind and by step name (the name wins).

    An entry that takes diffusion has to say `exact=False`; PolicyError otherwise, and for knobs that no call could run.
    """

    name: str = "default"
    version: str = "1"
    kinds: Mapping[str, Settings] = field(default_factory=dict)
    steps: Mapping[str, Settings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, table in (("kinds", self.kinds), ("steps", self.steps)):
            if not isinstance(table, Mapping):
                raise PolicyError(f"{key}={shown(table)}: expected settings by name", (key,))
            for name, said in table.items():
                if not isinstance(said, Settings):
                    raise PolicyError(
                        f"{key}[{name!r}]={shown(said)}: expected Settings; Policy.from_table reads plain tables",
                        (key,),
                    )
                try:
                    check_entry(said, f"[{key}.{name}]")
                except PolicyError as error:
                    raise PolicyError(str(error), (key, name, *error.where)) from None

    @property
    def sha256(self) -> str:
        """Digest of the table's content."""
        return self._digest

    @cached_property
    def _digest(self) -> str:  # computed once: every record has it
        return hashlib.sha256(json.dumps(self._tables(), sort_keys=True).encode()).hexdigest()

    def resolve(self, context: StepContext) -> DecodePlan:
        """What this table, over the package's, says of a step. The same context gives the same plan."""
        return resolve(context, (self,), ())

    def layers(self, context: StepContext) -> list[Layer]:
        """What this policy says of a step, the weaker word first."""
        found: list[Layer] = []
        if context.kind in self.kinds:
            found.append((f"policy {self.name!r} for {context.kind} steps", self.kinds[context.kind]))
        if context.name in self.steps:
            found.append((f"policy {self.name!r} for step {context.name!r}", self.steps[context.name]))
        return found

    def advise(self, plan: DecodePlan) -> DecodePlan:
        """A table has said all it knows in its layers."""
        return plan

    def observe(self, plan: DecodePlan, result: DecodeResult) -> None:
        """A table does not learn."""

    def to_toml(self) -> str:
        """The text that `from_toml` reads as this policy."""
        return as_toml({"name": self.name, "version": self.version, **self._tables()})

    @classmethod
    def from_toml(cls, path: Path) -> Policy:
        """Reads `trimode.toml`, or `[tool.trimode]` of a pyproject.toml. Errors name the line."""
        above = ("tool", "trimode") if path.name == "pyproject.toml" else ()
        table = _tool_table(path) if above else _toml(path)
        try:
            return cls.from_table(table or {}, path.stem)
        except PolicyError as error:
            line = line_of(path.read_text(encoding="utf-8"), (*above, *error.where))
            raise PolicyError(f"{path}:{line}: {error}" if line else f"{path}: {error}", error.where) from None

    @classmethod
    def from_table(cls, table: Mapping[str, Any], name: str) -> Policy:
        """A policy from TOML's values; `name` where they hold none. `PolicyError.where` leads to what is wrong."""
        unknown = sorted(set(table) - {"name", "version", "kinds", "steps"})
        if unknown:
            raise PolicyError(f"unknown key {unknown[0]!r}; known: name, version, kinds, steps", unknown[:1])
        for key in ("kinds", "steps"):
            _expect_table(table.get(key, {}), f"[{key}]", (key,))
        wrong = sorted(set(table.get("kinds", {})) - set(STEP_KINDS))
        if wrong:
            known = ", ".join(STEP_KINDS)
            raise PolicyError(f"unknown step kind {wrong[0]!r}; known: {known}", ("kinds", wrong[0]))
        return cls(
            name=str(table.get("name", name)),
            version=str(table.get("version", "1")),
            kinds=_settings(table, "kinds"),
            steps=_settings(table, "steps"),
        )

    def _tables(self) -> dict[str, dict[str, dict[str, Any]]]:
        tables = {"kinds": self.kinds, "steps": self.steps}
        return {key: {name: said.said() for name, said in table.items()} for key, table in tables.items()}


def _settings(table: Mapping[str, Any], key: str) -> dict[str, Settings]:
    found = {}
    for name, words in table.get(key, {}).items():
        origin, at = f"[{key}.{name}]", (key, name)
        try:
            found[name] = Settings.of(_expect_table(words, origin), origin)
        except PolicyError as error:
            raise PolicyError(str(error), (*at, *error.where)) from None
    return found


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyError(f"cannot read policy {path}: {error.strerror}") from None
    except ValueError as error:  # broken TOML (the message has the line), or bytes that are no text
        raise PolicyError(f"{path}: {error}") from None


def _tool_table(project: Path) -> Mapping[str, Any] | None:
    """[tool.trimode] of a pyproject.toml."""
    tool = _expect_table(_toml(project).get("tool", {}), f"{project} [tool]")
    return _expect_table(tool["trimode"], f"{project} [tool.trimode]") if "trimode" in tool else None


def _expect_table(value: Any, origin: str, where: Sequence[str] = ()) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise PolicyError(f"{origin}: expected a table, found {value!r}", where)
    return value


PACKAGE_POLICY: Final = Policy(
    name="trimode",
    kinds={
        "plan": Settings(mode="ar"),
        "tool_call": Settings(mode="linear_spec"),
        "json": Settings(mode="linear_spec"),
        "prose": Settings(mode="ar"),
        "choice": Settings(mode="ar"),  # candidates are scored as ar writes them
    },
)
"""The package's own table: speculation where text is regular, one token a pass where it is free; exact throughout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a plan is expected to cost and why it was preferred: seconds and passes of decoding one output.

    `price`: the call's share of these seconds, where others are live; `regret`: how much more that is than of the plan
    believed best, which exploring costs; `observed`: calls of this step seen so far. `prefill`: seconds to read the
    prompt, as long as prompts of this step were.
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
    """The resolved choice: a mode, every knob, and why the mode was taken.

    `exact`: only exact modes may serve it; raises PolicyError with diffusion. `named`: somebody beyond the package's
    table chose the mode. `controller` may hand over to another exact mode in mid-call. `forecast`: by policies that
    predict. `notes`: what the caller asked for and will not get.
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
    """A policy: by name, version and digest in every record."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    def resolve(self, context: StepContext) -> DecodePlan: ...
    def layers(self, context: StepContext) -> list[Layer]:
        """What the policy says of a step, the weaker word first."""
        ...

    def advise(self, plan: DecodePlan) -> DecodePlan:
        """The plan for a step whose mode nobody named: `plan`, which is the package's, or a better one."""
        ...

    def observe(self, plan: DecodePlan, result: DecodeResult) -> None:
        """What came of a plan of this policy."""
        ...


def resolve(context: StepContext, policies: Sequence[PolicyProtocol], said: Sequence[Layer]) -> DecodePlan:
    """Merges the package's table, `policies` and `said` layers, each stronger than the ones before it.

    Where nobody names a mode, the policies are asked for a better one than the package's.
    """
    given = [layer for policy in policies for layer in policy.layers(context)] + list(said)
    merged, mode, reason, author = DEFAULTS, "ar", "package defaults", "package defaults"
    for label, settings in [*PACKAGE_POLICY.layers(context), *given]:
        merged = settings.over(merged)
        if settings.mode is not None:
            mode, author = settings.mode, label
            reason = f"{settings.mode}: {label}"
    chosen = known_mode(mode, author)
    if merged.exact and chosen == "diffusion":
        raise PolicyError(f"exact=True, but {author} asks for diffusion, which is approximate; allow exact=False")
    plan = DecodePlan(
        mode=chosen,
        settings=merged,
        reason=reason,
        policy=policies[-1] if policies else PACKAGE_POLICY,
        context=context,
        exact=merged.exact is not False and chosen != "diffusion",
        named=any(settings.mode is not None for _, settings in given),
    )
    for policy in () if plan.named or context.kind == "choice" else policies:  # a choice is scored, not decoded
        plan = policy.advise(plan)
    return plan


def configured(folder: Path) -> Policy | None:
    """The policy of `trimode.toml` in `folder`, else of `[tool.trimode]` in its pyproject.toml, else None."""
    if (own := folder / "trimode.toml").is_file():
        return Policy.from_toml(own)
    project = folder / "pyproject.toml"
    if project.is_file() and _tool_table(project) is not None:
        return Policy.from_toml(project)
    return None
