"""A policy as a lock file: every setting of every step kind written out, so that a check can report differences.

Knows policies and their text. The file includes the package's own table and defaults, so that a release which decides
otherwise is noticed like an edit of the policy. The file is itself a policy and can be run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import unified_diff

from .offers import ANY_WEIGHTS, Weights
from .policies import Policy, StepContext, resolve
from .settings import STEP_KINDS, Settings


def lock_text(policy: Policy, weights: Weights = ANY_WEIGHTS) -> str:
    """Returns the lock file of a policy: its name, version and digest, then its settings for each step kind, with a
    mode that `weights` have where the policy names none."""
    kinds: dict[str, Settings] = {}
    for kind in STEP_KINDS:
        kinds[kind] = _as_entry(resolve(StepContext(kind=kind, name=""), (policy,), (), weights).settings)
    whole = replace(policy, kinds=kinds)
    head = f"# locked: policy {policy.name!r}, version {policy.version}\n# sha256 {policy.sha256}\n"
    return head + whole.to_toml()


def moved(policy: Policy, locked: str, weights: Weights = ANY_WEIGHTS) -> Sequence[str]:
    """Returns a unified diff of a lock file against the policy's current settings; empty where they agree."""
    now = lock_text(policy, weights)
    before, after = (text.rstrip("\n").split("\n") for text in (locked, now))
    return list(unified_diff(before, after, "locked", "now", lineterm="", n=1))


def _as_entry(settings: Settings) -> Settings:
    """Returns `settings` as an entry of a table, where mode diffusion needs exact = false."""
    return replace(settings, exact=False) if settings.mode == "diffusion" else settings
