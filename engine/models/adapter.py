"""`adapter_config.json` of a draft adapter as rank and scale of each layer.

Knows PEFT's keys for LoRA. Does not know tensors or modules. Keys that change an adapter's output are applied or
refused by name; an unknown key is refused unless its value is empty.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..errors import CheckpointError
from .fields import read_object

MODULE: Final = "encoder.layers.{layer}.self_attn.o_proj"
"""Module that an adapter is attached to, as PEFT's patterns name it."""
_READ: Final = frozenset({"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"})
_PLAIN: Final = "train a plain LoRA of o_proj, or leave the folder out to draft without an adapter"
_MERGED: Final = (
    "its base weights are not the checkpoint's; convert it to plain LoRA with PEFT (init_lora_weights=True)"
)
_ALLOWED: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "peft_type": (("LORA", None), _PLAIN),
    "target_modules": ((["o_proj"],), "train it on o_proj alone"),
    "use_dora": ((False, None), "train it without DoRA"),
    "fan_in_fan_out": ((False, None), "transpose the weights to [out, in] and say false"),
    "bias": (("none", None), "train it with bias='none'"),
    "lora_bias": ((False, None), "train it without a bias in lora_B"),
    "modules_to_save": ((None, []), "such modules would replace the checkpoint's own; train it without them"),
    "layers_to_transform": ((None, []), "train it on every layer, or write zeros for lora_B of the others"),
    "layers_pattern": ((None, [], ""), "train it on every layer, or write zeros for lora_B of the others"),
    "exclude_modules": ((None, [], ""), "train it on o_proj of every layer"),
    "init_lora_weights": ((True, False, None, "gaussian", "orthogonal", "eva"), _MERGED),
}
"""Allowed values by key, the first one named in errors, and what to do about others."""
_WITHOUT_EFFECT: Final = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "eva_config", "inference_mode", "lora_dropout", "megatron_core",
        "peft_version", "qalora_group_size", "revision", "task_type",
    }
)  # fmt: skip
"""Keys of training and origin, and parameters of options that are refused themselves."""


class LayerRank(NamedTuple):
    """One layer's low-rank branch: y += scale * B(A(x)), with A to `rank` dimensions."""

    rank: int
    scale: float


def read_adapter_config(path: Path, layers: int) -> list[LayerRank]:
    """Returns rank and scale by layer. Raises CheckpointError, which names key, value and what to do."""
    fields = read_object(path)
    for key, (allowed, todo) in _ALLOWED.items():
        given = fields.get(key)
        if not any(type(given) is type(one) and given == one for one in allowed):
            raise CheckpointError(f"{path}: expected {key} {allowed[0]!r}, found {given!r}; {todo}")
    for key in sorted(fields.keys() - _ALLOWED.keys() - _READ - _WITHOUT_EFFECT):
        if fields[key] not in (None, False, "", [], {}):
            raise CheckpointError(f"{path}: {key}={fields[key]!r} is not known here; {_PLAIN}")
    rank, alpha, rooted = fields.get("r"), fields.get("lora_alpha"), fields.get("use_rslora")
    if not isinstance(rooted, bool | None):
        raise CheckpointError(f"{path}: expected use_rslora to be true or false, found {rooted!r}")
    found: list[LayerRank] = []
    for layer in range(layers):
        name = MODULE.format(layer=layer)
        own = _of_layer(fields, "rank_pattern", name, rank, path)
        weight = _of_layer(fields, "alpha_pattern", name, alpha, path)
        if not _number(own) or not isinstance(own, int) or not _number(weight) or own <= 0:
            raise CheckpointError(
                f"{path}: expected r and lora_alpha to be numbers, found r={own!r}, lora_alpha={weight!r}"
            )
        found.append(LayerRank(own, weight / (math.sqrt(own) if rooted else own)))
    return found


def adapter_config(ranks: list[LayerRank]) -> dict[str, Any]:
    """Returns the config that `read_adapter_config` reads as `ranks`; with patterns if layers differ."""
    first = ranks[0]
    names = [MODULE.format(layer=layer).replace(".", r"\.") for layer in range(len(ranks))]
    alphas = [layer.scale * layer.rank for layer in ranks]
    fields: dict[str, Any] = {
        "peft_type": "LORA",
        "target_modules": ["o_proj"],
        "r": first.rank,
        "lora_alpha": alphas[0],
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    if len(set(ranks)) > 1:
        fields["rank_pattern"] = {name: layer.rank for name, layer in zip(names, ranks, strict=True)}
        fields["alpha_pattern"] = dict(zip(names, alphas, strict=True))
    return fields


def _of_layer(fields: Mapping[str, Any], key: str, name: str, default: Any, path: Path) -> Any:
    """Returns the value of the first pattern that matches the end of `name`, as PEFT matches them; else `default`."""
    patterns = fields.get(key) or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{path}: expected {key} to map patterns to numbers, found {patterns!r}")
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", name):
                return value
        except re.error as error:
            raise CheckpointError(f"{path}: {key} {pattern!r} is no regular expression: {error}") from None
    return default


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
