"""`adapter_config.json` of a draft adapter as rank and scale of each adapted projection.

Knows PEFT's keys for LoRA and how its patterns match names. Does not know tensors or modules. Keys that change an
adapter's output are applied or refused by name; an unknown key is refused unless its value is empty.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..errors import CheckpointError
from .fields import read_object

PROJECTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp"),
}
"""Projections that an adapter may act on, with the part of a layer that they belong to."""
_ALL_LINEAR: Final = "all-linear"
"""PEFT's word for all of them."""
_READ: Final = frozenset({"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules"})
_SEVEN: Final = ", ".join(PROJECTIONS)
_PLAIN: Final = f"train a plain LoRA of {_SEVEN} or some of them, or leave the folder out to draft without an adapter"
_MERGED: Final = (
    "its base weights are not the checkpoint's; convert it to plain LoRA with PEFT (init_lora_weights=True)"
)
_ALLOWED: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "peft_type": (("LORA", None), _PLAIN),
    "use_dora": ((False, None), "train it without DoRA"),
    "fan_in_fan_out": ((False, None), "transpose the weights to [out, in] and say false"),
    "bias": (("none", None), "train it with bias='none'"),
    "lora_bias": ((False, None), "train it without a bias in lora_B"),
    "modules_to_save": ((None, []), "such modules would replace the checkpoint's own; train it without them"),
    "layers_to_transform": ((None, []), "train it on every layer, or write zeros for lora_B of the others"),
    "layers_pattern": ((None, [], ""), "train it on every layer, or write zeros for lora_B of the others"),
    "exclude_modules": ((None, [], ""), "name the modules that it acts on in target_modules"),
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


class Rank(NamedTuple):
    """One projection's low-rank term: y += scale * B(A(x)), with A to `rank` dimensions."""

    rank: int
    scale: float


LayerRanks = Mapping[str, Rank]
"""Ranks of one layer by the name of the projection; those that are not adapted are left out."""


def module_name(prefix: str, layer: int, projection: str) -> str:
    """Returns a projection's name as PEFT's patterns see it; `prefix`: of the family, with its dot."""
    return f"{prefix}layers.{layer}.{PROJECTIONS[projection]}.{projection}"


def read_adapter_config(path: Path, layers: int, prefix: str) -> list[LayerRanks]:
    """Returns the ranks of each layer. Raises CheckpointError, which names key, value and what to do."""
    fields = read_object(path)
    _check(fields, path)
    targets = _targets(fields, layers, prefix, path)
    return [
        {name: _rank(fields, module_name(prefix, layer, name), path) for name in PROJECTIONS if name in targets[layer]}
        for layer in range(layers)
    ]


def _check(fields: Mapping[str, Any], path: Path) -> None:
    for key, (allowed, todo) in _ALLOWED.items():
        given = fields.get(key)
        if not any(type(given) is type(one) and given == one for one in allowed):
            raise CheckpointError(f"{path}: expected {key} {allowed[0]!r}, found {given!r}; {todo}")
    for key in sorted(fields.keys() - _ALLOWED.keys() - _READ - _WITHOUT_EFFECT):
        if fields[key] not in (None, False, "", [], {}):
            raise CheckpointError(f"{path}: {key}={fields[key]!r} is not known here; {_PLAIN}")
    if not isinstance(rooted := fields.get("use_rslora"), bool | None):
        raise CheckpointError(f"{path}: expected use_rslora to be true or false, found {rooted!r}")


def _targets(fields: Mapping[str, Any], layers: int, prefix: str, path: Path) -> list[set[str]]:
    """Returns the projections of each layer that `target_modules` names, matched as PEFT matches them."""
    given = fields.get("target_modules")
    wanted: list[Any] = given if isinstance(given, list) and given else [given]
    found = [set[str]() for _ in range(layers)]
    for target in wanted:
        matches = _matcher(target, given, path)
        every = [(layer, name) for layer in range(layers) for name in PROJECTIONS]
        places = [place for place in every if matches(module_name(prefix, *place))]
        if not places:
            raise CheckpointError(
                f"{path}: expected target_modules to name projections of this model ({_SEVEN}, or {_ALL_LINEAR!r}), "
                f"found {target!r}; train it on those"
            )
        for layer, name in places:
            found[layer].add(name)
    return found


def _matcher(target: object, given: object, path: Path) -> Callable[[str], bool]:
    """Returns whether a module's name is `target`'s: one of a list by its end, a text alone as an expression."""
    if not isinstance(target, str) or not target:
        return lambda _: False
    if given is target and target != _ALL_LINEAR:
        try:
            whole = re.compile(target)
        except re.error as error:
            raise CheckpointError(f"{path}: target_modules {target!r} is no regular expression: {error}") from None
        return lambda name: whole.fullmatch(name) is not None
    return lambda name: target == _ALL_LINEAR or name == target or name.endswith(f".{target}")


def _rank(fields: Mapping[str, Any], name: str, path: Path) -> Rank:
    """Returns rank and scale of one module."""
    own = _of_module(fields, "rank_pattern", name, fields.get("r"), path)
    weight = _of_module(fields, "alpha_pattern", name, fields.get("lora_alpha"), path)
    if not _number(own) or not isinstance(own, int) or not _number(weight) or own <= 0:
        raise CheckpointError(
            f"{path}: expected r and lora_alpha to be numbers, found r={own!r}, lora_alpha={weight!r}"
        )
    return Rank(own, weight / (math.sqrt(own) if fields.get("use_rslora") else own))


def adapter_config(ranks: Sequence[LayerRanks], prefix: str) -> dict[str, Any]:
    """Returns the config that `read_adapter_config` reads as `ranks`.

    It has patterns if ranks differ, and whole names of modules if layers are adapted in different projections.
    """
    places = {(layer, name): rank for layer, names in enumerate(ranks) for name, rank in names.items()}
    names = {place: module_name(prefix, *place) for place in places}
    alike = all(layer.keys() == ranks[0].keys() for layer in ranks)
    first = next(iter(places.values()))
    fields: dict[str, Any] = {
        "peft_type": "LORA",
        "target_modules": list(ranks[0]) if alike else list(names.values()),
        "r": first.rank,
        "lora_alpha": first.scale * first.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    if len(set(places.values())) > 1:
        patterns = {place: re.escape(name) for place, name in names.items()}
        fields["rank_pattern"] = {patterns[place]: rank.rank for place, rank in places.items()}
        fields["alpha_pattern"] = {patterns[place]: rank.scale * rank.rank for place, rank in places.items()}
    return fields


def _of_module(fields: Mapping[str, Any], key: str, name: str, default: Any, path: Path) -> Any:
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
