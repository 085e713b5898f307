"""`config.json` of an NLD-format checkpoint as a frozen dataclass.

Knows which keys a model needs and which variants this engine can run; says what was expected and found when it cannot.
Does not know weights or devices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .errors import CheckpointError

ARCHITECTURE: Final = "NemotronLabsDiffusionModel"
_REFUSED: Final = {"attention_bias": (False, None), "mlp_bias": (False, None), "sliding_window": (None,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding: `default`, or `yarn` (arXiv 2309.00071) with any positive factor."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    llama_4_scaling_beta: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Geometry, special tokens and rope of one model. Lengths in tokens."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    mask_token_id: int
    eos_token_ids: tuple[int, ...]
    rope: RopeConfig
    block_size: int = 32
    tie_word_embeddings: bool = False

    @classmethod
    def load(cls, directory: Path) -> ModelConfig:
        path = directory / "config.json"
        if not path.is_file():
            raise CheckpointError(f"no config.json in {directory}")
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} is not JSON: {error}") from None
        return cls.from_dict(fields, str(path))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], origin: str = "config") -> ModelConfig:
        """Checks the variant, then reads every key that the geometry needs. `origin` names the file in errors."""
        _check_variant(fields, origin)
        config = cls(
            **{key: _number(fields, key, origin) for key in _INTEGERS},
            rms_norm_eps=_number(fields, "rms_norm_eps", origin, float),
            eos_token_ids=_eos(fields, origin),
            rope=_rope(fields, origin),
            block_size=int(fields.get("block_size") or 32),
            tie_word_embeddings=bool(fields.get("tie_word_embeddings", False)),
        )
        if config.num_attention_heads % config.num_key_value_heads:
            raise CheckpointError(
                f"{origin}: num_attention_heads={config.num_attention_heads} is no multiple of "
                f"num_key_value_heads={config.num_key_value_heads}"
            )
        return config


_INTEGERS: Final = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "mask_token_id",
)  # fmt: skip


def _number(fields: Mapping[str, Any], key: str, origin: str, kind: type = int) -> Any:
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, int | kind) or value < 0:
        found = "nothing" if key not in fields else repr(value)
        raise CheckpointError(f"{origin}: expected {key} to be a non-negative {kind.__name__}, found {found}")
    return kind(value)


def _check_variant(fields: Mapping[str, Any], origin: str) -> None:
    architectures = fields.get("architectures") or []
    if ARCHITECTURE not in architectures:
        raise CheckpointError(f"{origin}: expected architectures to hold {ARCHITECTURE!r}, found {architectures!r}")
    for key, allowed in _REFUSED.items():
        if fields.get(key) not in allowed:
            raise CheckpointError(f"{origin}: expected {key} to be {allowed[0]!r}, found {fields[key]!r}")
    if fields.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"{origin}: expected hidden_act 'silu', found {fields['hidden_act']!r}")


def _eos(fields: Mapping[str, Any], origin: str) -> tuple[int, ...]:
    value = fields.get("eos_token_id")
    ids = value if isinstance(value, list) else [value]
    if not ids or not all(isinstance(token, int) for token in ids):
        raise CheckpointError(f"{origin}: expected eos_token_id to be an id or a list of ids, found {value!r}")
    return tuple(ids)


def _rope(fields: Mapping[str, Any], origin: str) -> RopeConfig:
    found = fields.get("rope_parameters")
    if not isinstance(found, dict) or "rope_theta" not in found:
        raise CheckpointError(f"{origin}: expected rope_parameters with rope_theta inside, found {found!r}")
    kind = found.get("rope_type", "default")
    if kind not in ("default", "yarn"):
        raise CheckpointError(f"{origin}: expected rope_type 'default' or 'yarn', found {kind!r}")
    known = {"theta": float(found["rope_theta"]), "kind": kind}
    for key in RopeConfig.__slots__:  # type: ignore[attr-defined]
        if found.get(key) is not None:
            known[key] = found[key]
    rope = RopeConfig(**known)
    if kind == "yarn" and (rope.factor <= 0 or rope.original_max_position_embeddings <= 0):
        raise CheckpointError(
            f"{origin}: yarn needs factor > 0 and original_max_position_embeddings > 0, found {found!r}"
        )
    return rope
