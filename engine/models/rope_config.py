"""Settings of rotary position embedding, in the older and the newer form of config.json.

Knows keys. Does not know angles; those are in `rope.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import CheckpointError
from .fields import number

_SCALINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "default": (),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
"""Rope types and the settings that each one needs."""
_PRETRAINED: Final = "original_max_position_embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding: `default`, `yarn` (arXiv 2309.00071) with any positive factor, or `llama3` (3.1).

    `factors`, with `default` alone: what divides each of the head_dim / 2 frequencies, as a GGUF file stores scaling.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    llama_4_scaling_beta: float | None = None
    factors: tuple[float, ...] = ()


def rope_config(fields: Mapping[str, Any], origin: str) -> RopeConfig:
    """Reads the fields of config.json. Raises CheckpointError for a setting that is missing, unknown or impossible."""
    settings = _rope_fields(fields, origin)
    kind = _rope_kind(settings, origin)
    if kind != "default":  # the order in which transformers looks: next to the settings, inside, the context
        lengths = (fields.get(_PRETRAINED), settings.get(_PRETRAINED), fields.get("max_position_embeddings"))
        settings[_PRETRAINED] = next((length for length in lengths if length is not None), None)
    known: dict[str, Any] = {"theta": number(settings, "rope_theta", origin, float), "kind": kind}
    for key in set(RopeConfig.__slots__) - {"factors"}:  # no config.json has these
        if settings.get(key) is not None:
            known[key] = number(settings, key, origin, int if key == _PRETRAINED else float)
    rope = RopeConfig(**known)
    scaled = kind != "default" or rope.llama_4_scaling_beta
    if rope.theta <= 1 or rope.factor <= 0 or (scaled and rope.original_max_position_embeddings <= 0):
        raise CheckpointError(
            f"{origin}: expected rope_theta > 1, factor > 0 and, for yarn, llama3 or llama_4_scaling_beta, "
            f"{_PRETRAINED} > 0, found {settings!r}"
        )
    if not 0 < rope.low_freq_factor < rope.high_freq_factor:
        raise CheckpointError(f"{origin}: expected 0 < low_freq_factor < high_freq_factor, found {settings!r}")
    return rope


def _rope_fields(fields: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Returns the rope settings as one dict.

    transformers 5 writes all of them into rope_parameters; before, rope_theta was next to rope_scaling, which is often
    null.
    """
    found = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    outer = {key: fields[key] for key in ("rope_theta", "partial_rotary_factor") if fields.get(key) is not None}
    settings = {**outer, **found} if isinstance(found, dict) else {}
    if "rope_theta" not in settings:
        raise CheckpointError(f"{origin}: expected rope_parameters with rope_theta inside, found {found!r}")
    return settings


def _rope_kind(settings: Mapping[str, Any], origin: str) -> str:
    kind = settings.get("rope_type", settings.get("type", "default"))
    if not isinstance(kind, str) or kind not in _SCALINGS:
        known = ", ".join(map(repr, _SCALINGS))
        raise CheckpointError(f"{origin}: expected rope_type to be one of {known}, found {kind!r}")
    for key, only in (("partial_rotary_factor", 1), ("truncate", True)):
        if settings.get(key) not in (None, only):
            raise CheckpointError(f"{origin}: expected rope_parameters.{key} to be {only!r}, found {settings[key]!r}")
    for key in _SCALINGS[kind]:
        if settings.get(key) is None:
            raise CheckpointError(f"{origin}: expected rope_parameters.{key} with rope_type {kind!r}, found nothing")
    return kind
