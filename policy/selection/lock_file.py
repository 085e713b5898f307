"""A policy as a lock file: every knob of every step kind spelled out, so that a check can say what moved.

Knows policies and their text. What the package's own table and defaults say is in the file too: a new release that
decides otherwise is noticed like an edit of the policy. The file is a policy itself and can be run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import unified_diff

from .policies import Policy, StepContext
from .settings import STEP_KINDS, Settings


def lock_text(policy: Policy) -> str:
    """The lock file of a policy: its name, version and digest, then what it decides."""
    kinds: dict[str, Settings] = {}
    for kind in STEP_KINDS:
        kinds[kind] = _decided(policy.resolve(StepContext(kind=kind, name="")).settings)
    whole = replace(policy, kinds=kinds)
    head = f"# locked: policy {policy.name!r}, version {policy.version}\n# sha256 {policy.sha256}\n"
    return head + whole.to_toml()


def moved(policy: Policy, locked: str) -> Sequence[str]:
    """The lines in which a lock file and what the policy says now differ, as a unified diff; empty where they agree."""
    now = lock_text(policy)
    return list(unified_diff(locked.splitlines(), now.splitlines(), "locked", "now", lineterm="", n=1))


def _decided(settings: Settings) -> Settings:
    """As an entry of a table: diffusion stands there only beside exact = false."""
    return replace(settings, exact=False) if settings.mode == "diffusion" else settings
