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
        return cls.from_dict(read_object(path), str(path))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], origin: str = "config") -> ModelConfig:
        """Checks the variant, then reads every key that the geometry needs. `origin` names the file in errors."""
        _check_variant(fields, origin)
        config = cls(
            **{key: _number(fields, key, origin) for key in _INTEGERS},
            rms_norm_eps=_number(fields, "rms_norm_eps", origin, float),
            eos_token_ids=_eos(fields, origin),
            rope=_rope(fields, origin),
            block_size=_number(fields, "block_size", origin) if fields.get("block_size") is not None else 32,
            tie_word_embeddings=bool(fields.get("tie_word_embeddings", False)),
        )
        _check_geometry(config, origin)
        return config


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file at `path`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


_INTEGERS: Final = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "mask_token_id",
)  # fmt: skip


def _number(fields: Mapping[str, Any], key: str, origin: str, kind: type[int] | type[float] = int) -> Any:
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, int | kind) or value < 0:
        found = "nothing" if key not in fields else repr(value)
        raise CheckpointError(f"{origin}: expected {key} to be a non-negative {kind.__name__}, found {found}")
    return kind(value)


def _check_geometry(config: ModelConfig, origin: str) -> None:
    for key in (*_INTEGERS, "block_size"):
        if key != "mask_token_id" and getattr(config, key) == 0:
            raise CheckpointError(f"{origin}: expected {key} to be positive, found 0")
    if config.num_attention_heads % config.num_key_value_heads:
        raise CheckpointError(
            f"{origin}: num_attention_heads={config.num_attention_heads} is no multiple of "
            f"num_key_value_heads={config.num_key_value_heads}"
        )
    if config.head_dim % 2:
        raise CheckpointError(f"{origin}: expected head_dim to be even, found {config.head_dim}")
    for key, token in (
        ("mask_token_id", config.mask_token_id),
        *(("eos_token_id", end) for end in config.eos_token_ids),
    ):
        if not 0 <= token < config.vocab_size:
            raise CheckpointError(f"{origin}: expected {key} below vocab_size={config.vocab_size}, found {token}")


def _check_variant(fields: Mapping[str, Any], origin: str) -> None:
    architectures = fields.get("architectures") or []
    if not isinstance(architectures, list) or ARCHITECTURE not in architectures:
        raise CheckpointError(f"{origin}: expected architectures to hold {ARCHITECTURE!r}, found {architectures!r}")
    for key, allowed in _REFUSED.items():
        if fields.get(key) not in allowed:
            raise CheckpointError(f"{origin}: expected {key} to be {allowed[0]!r}, found {fields[key]!r}")
    if fields.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"{origin}: expected hidden_act 'silu', found {fields['hidden_act']!r}")


def _eos(fields: Mapping[str, Any], origin: str) -> tuple[int, ...]:
    value = fields.get("eos_token_id")
    ids: list[Any] = value if isinstance(value, list) else [value]
    if not ids or not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise CheckpointError(f"{origin}: expected eos_token_id to be an id or a list of ids, found {value!r}")
    return tuple(ids)


def _rope(fields: Mapping[str, Any], origin: str) -> RopeConfig:
    found = fields.get("rope_parameters")
    if not isinstance(found, dict) or "rope_theta" not in found:
        raise CheckpointError(f"{origin}: expected rope_parameters with rope_theta inside, found {found!r}")
    kind = found.get("rope_type", found.get("type", "default"))
    if kind not in ("default", "yarn"):
        raise CheckpointError(f"{origin}: expected rope_type 'default' or 'yarn', found {kind!r}")
    for key, only in (("partial_rotary_factor", 1), ("truncate", True)):
        if found.get(key) not in (None, only):
            raise CheckpointError(f"{origin}: expected rope_parameters.{key} to be {only!r}, found {found[key]!r}")
    known: dict[str, Any] = {"theta": _number(found, "rope_theta", origin, float), "kind": kind}
    for key in RopeConfig.__slots__:
        if found.get(key) is not None:
            known[key] = _number(found, key, origin, int if key == "original_max_position_embeddings" else float)
    rope = RopeConfig(**known)
    scaled = kind == "yarn" or rope.llama_4_scaling_beta
    if rope.theta <= 1 or rope.factor <= 0 or (scaled and rope.original_max_position_embeddings <= 0):
        raise CheckpointError(
            f"{origin}: expected rope_theta > 1, factor > 0 and, for yarn or llama_4_scaling_beta, "
            f"original_max_position_embeddings > 0, found {found!r}"
        )
    return rope
