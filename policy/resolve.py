"""The one place where a step's mode is chosen, with its reason in words.

    package defaults < configuration file < decorator < `with trimode.using(...)` < call argument

Knows layers of settings and policies. Does not know engines or prompts.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from trimode.engine.request import Mode

from .errors import PolicyError
from .spec import DEFAULTS, STEP_KINDS, Settings, StepKind, known_mode

Layer = tuple[str, Settings]
"""Where settings were said (in words) and what was said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What a policy may look at: the step's kind and name."""

    kind: StepKind
    name: str


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A fixed table: settings by step kind and by step name (the name wins)."""

    name: str = "default"
    version: str = "1"
    kinds: Mapping[str, Settings] = field(default_factory=dict)
    steps: Mapping[str, Settings] = field(default_factory=dict)

    @cached_property
    def sha256(self) -> str:
        """Digest of the table's content, computed once: every record has it."""
        tables = {"kinds": self.kinds, "steps": self.steps}
        plain = {key: {name: asdict(said) for name, said in table.items()} for key, table in tables.items()}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def layers(self, context: StepContext) -> list[Layer]:
        """What this policy says of a step, the weaker word first."""
        found: list[Layer] = []
        if context.kind in self.kinds:
            found.append((f"policy {self.name!r} for {context.kind} steps", self.kinds[context.kind]))
        if context.name in self.steps:
            found.append((f"policy {self.name!r} for step {context.name!r}", self.steps[context.name]))
        return found

    @classmethod
    def from_toml(cls, path: Path) -> Policy:
        """Reads `trimode.toml`, or `[tool.trimode]` of a pyproject.toml."""
        table = _tool_table(path) if path.name == "pyproject.toml" else _toml(path)
        return cls.from_table(table or {}, str(path))

    @classmethod
    def from_table(cls, table: Mapping[str, Any], origin: str) -> Policy:
        unknown = sorted(set(table) - {"name", "version", "kinds", "steps"})
        if unknown:
            raise PolicyError(f"{origin}: unknown key {unknown[0]!r}; known: name, version, kinds, steps")
        for key in ("kinds", "steps"):
            _expect_table(table.get(key, {}), f"{origin} [{key}]")
        wrong = sorted(set(table.get("kinds", {})) - set(STEP_KINDS))
        if wrong:
            raise PolicyError(f"{origin}: unknown step kind {wrong[0]!r}; known: {', '.join(STEP_KINDS)}")
        return cls(
            name=str(table.get("name", Path(origin).stem)),
            version=str(table.get("version", "1")),
            kinds=_settings(table.get("kinds", {}), f"{origin} [kinds"),
            steps=_settings(table.get("steps", {}), f"{origin} [steps"),
        )


def _settings(table: Mapping[str, Any], origin: str) -> dict[str, Settings]:
    return {
        name: Settings.of(_expect_table(words, f"{origin}.{name}]"), f"{origin}.{name}]")
        for name, words in table.items()
    }


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyError(f"cannot read policy {path}: {error.strerror}") from None
    except ValueError as error:  # broken TOML, or bytes that are no text
        raise PolicyError(f"{path}: {error}") from None


def _tool_table(project: Path) -> Mapping[str, Any] | None:
    """[tool.trimode] of a pyproject.toml."""
    tool = _expect_table(_toml(project).get("tool", {}), f"{project} [tool]")
    return _expect_table(tool["trimode"], f"{project} [tool.trimode]") if "trimode" in tool else None


def _expect_table(value: Any, origin: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise PolicyError(f"{origin}: expected a table, found {value!r}")
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
class DecodePlan:
    """The resolved choice: a mode, every knob, and why the mode was taken."""

    mode: Mode
    settings: Settings
    reason: str
    policy: Policy


def resolve(context: StepContext, policies: Sequence[Policy], said: Sequence[Layer]) -> DecodePlan:
    """Merges the package's table, `policies` and `said` layers, each stronger than the ones before it."""
    layers: list[Layer] = [("package defaults", DEFAULTS), *PACKAGE_POLICY.layers(context)]
    layers += [layer for policy in policies for layer in policy.layers(context)]
    layers += said
    merged = Settings()
    mode, reason, author = "ar", "package defaults", "package defaults"
    for label, settings in layers:
        merged = settings.over(merged)
        if settings.mode is not None:
            mode, author = settings.mode, label
            reason = f"{settings.mode}: {label}"
    chosen = known_mode(mode, author)
    if merged.exact and chosen == "diffusion":
        raise PolicyError(f"exact=True, but {author} asks for diffusion, which is approximate; allow exact=False")
    policy = policies[-1] if policies else PACKAGE_POLICY
    return DecodePlan(mode=chosen, settings=merged, reason=reason, policy=policy)


def configured(folder: Path) -> Policy | None:
    """The policy of `trimode.toml` in `folder`, else of `[tool.trimode]` in its pyproject.toml, else None."""
    if (own := folder / "trimode.toml").is_file():
        return Policy.from_toml(own)
    project = folder / "pyproject.toml"
    if project.is_file() and _tool_table(project) is not None:
        return Policy.from_toml(project)
    return None
