"""The choice of a mode: which mode and options a step gets, and why.

Knows settings, policies and numbers. Does not know schemas, records or tensors; nothing here measures or decodes (an
engine times its own passes in `calls/calibrate.py`). Start with `policies.py`, then `auto.py`.
"""

from __future__ import annotations

from .auto import Auto
from .auto_under_table import Guided
from .cost_model import BASE_CONTEXT, CostModel, Measurement, fit
from .evidence import Observation, observed
from .lock_file import lock_text, moved
from .naming import NAMING, Naming, current_naming, kind_given
from .offers import ANY_WEIGHTS, Weights
from .policies import DecodePlan, Layer, Policy, PolicyProtocol, StepContext, resolve
from .pool_auto import PoolAuto, PoolEvidence
from .posterior import Learned
from .pricing import Cost, Costing, Passes
from .settings import (
    NAMES,
    OPTIONS,
    PLANNED_KINDS,
    STEP_KINDS,
    Guarantee,
    PlannedKind,
    SettingArguments,
    Settings,
    StepKind,
    known_kind,
    known_mode,
    options_of,
    sampling_of,
    variant,
    without_part,
)
from .switching import Schedule
from .toml_text import as_toml, read_toml
from .variants import ADAPTED, LENGTHS, Variant
from .working_directory import configured, working_policy

__all__ = [
    "ADAPTED",
    "ANY_WEIGHTS",
    "BASE_CONTEXT",
    "LENGTHS",
    "NAMES",
    "NAMING",
    "OPTIONS",
    "PLANNED_KINDS",
    "STEP_KINDS",
    "Auto",
    "Cost",
    "CostModel",
    "Costing",
    "DecodePlan",
    "Guarantee",
    "Guided",
    "Layer",
    "Learned",
    "Measurement",
    "Naming",
    "Observation",
    "Passes",
    "PlannedKind",
    "Policy",
    "PolicyProtocol",
    "PoolAuto",
    "PoolEvidence",
    "Schedule",
    "SettingArguments",
    "Settings",
    "StepContext",
    "StepKind",
    "Variant",
    "Weights",
    "as_toml",
    "configured",
    "current_naming",
    "fit",
    "kind_given",
    "known_kind",
    "known_mode",
    "lock_text",
    "moved",
    "observed",
    "options_of",
    "read_toml",
    "resolve",
    "sampling_of",
    "variant",
    "without_part",
    "working_policy",
]  # fmt: skip
