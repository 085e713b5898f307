"""How a draft adapter drafts: a small JSON beside PEFT's files, or the published layout of UNO.

Knows the keys of that JSON and what tells UNO's adapters. Does not know tensors. A base that the adapter was not made
for is refused by name, and so is every value that is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..drafting import Drafting, Noise
from ..errors import CheckpointError
from .adapter import PROJECTIONS
from .config import ModelConfig
from .fields import read_object

DRAFTING: Final = "trimode_adapter.json"
FORMAT: Final = 1
_KEYS: Final = frozenset(
    {"format", "noise", "attention", "predicts", "exact_first", "block_lengths", "fills_blocks", "base"}
)
_ATTENTION: Final = {"block": False, "causal": True}
_PREDICTS: Final = {"own": False, "next": True}
_UNO_ALPHAS: Final = (2048, 8192)
_UNO_RANK: Final = 128
_UNO_LONGEST: Final = 16
"""Tokens of the longest block that its authors decode linearly."""


@dataclass(frozen=True, slots=True)
class Base:
    """The model that an adapter is loaded for. `weights_sha256`: digest of its weight files, computed when asked for;
    `mask_token_id`: of its files, None if they name none."""

    name: str
    weights_sha256: Callable[[], str]
    mask_token_id: Callable[[], int | None]


def read_drafting(directory: Path, config: ModelConfig, base: Base) -> Drafting | None:
    """Returns how the adapter of `directory` drafts; None if it says nothing and the base drafts by itself.

    Raises CheckpointError for another base, for values that are not known, and for an adapter that says nothing on a
    base that cannot draft by itself.
    """
    if "ar" not in config.modes:
        raise CheckpointError(
            f"{directory}: {config.architecture} weights have no causal pass that could verify drafts"
        )
    path = directory / DRAFTING
    if path.is_file():
        fields = read_object(path)
        _check_base(fields.get("base"), config, base, str(path))
        return _drafting(fields, config, str(path))
    if is_uno(read_object(directory / "adapter_config.json")):
        return _uno(directory, config, base)
    if config.family.masks:
        return None
    raise CheckpointError(
        f"{directory} has no {DRAFTING}, which says how the adapter drafts, and is no adapter of UNO (rank {_UNO_RANK} "
        f"on all seven projections, alpha {' or '.join(map(str, _UNO_ALPHAS))}); docs/adapters.md has the keys"
    )


def drafting_fields(drafting: Drafting, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the JSON object that `read_drafting` reads as `drafting`. `base`: its architecture, name and digest."""
    noise, longest = drafting.noise, drafting.longest
    return {
        "format": FORMAT,
        "noise": {"mask_token_id": noise.first} if noise.first == noise.last else {"ids": [noise.first, noise.last]},
        "attention": "causal" if drafting.causal else "block",
        "predicts": "next" if drafting.ahead else "own",
        "exact_first": not drafting.seed_in_draft,
        "fills_blocks": drafting.fills,
        **({} if longest is None else {"block_lengths": [2, longest]}),
        **({} if base is None else {"base": dict(base)}),
    }


def is_uno(fields: Mapping[str, Any]) -> bool:
    """Returns whether an adapter_config.json is one of UNO's: arXiv 2609.04010, appendix and published adapters."""
    targets = fields.get("target_modules")
    return (
        fields.get("r") == _UNO_RANK
        and fields.get("lora_alpha") in _UNO_ALPHAS
        and isinstance(targets, list)
        and set(map(str, targets)) == set(PROJECTIONS)
    )


def _uno(directory: Path, config: ModelConfig, base: Base) -> Drafting:
    """Returns UNO's drafting: after the seed random ids from 1 to below the mask token, each row causal.

    K2-Horizon has no mask token; there its authors draw from the whole vocabulary.
    """
    mask = base.mask_token_id()
    if mask is None and config.architecture == "K2HorizonForCausalLM":
        mask = config.vocab_size
    if mask is None:
        raise CheckpointError(
            f"{directory} is an adapter of UNO, whose noise ids end before the mask token, and the files of "
            f"{base.name} name none; say in {DRAFTING} what stands in its slots: docs/adapters.md"
        )
    if not 3 <= mask <= config.vocab_size:
        raise CheckpointError(
            f"{directory}: the mask token of {base.name} is {mask}; expected 3 to {config.vocab_size}, its vocab_size"
        )
    return Drafting(
        noise=Noise(first=1, last=mask - 1),
        causal=True,
        ahead=True,
        exact_first=True,
        seed_in_draft=False,
        longest=_UNO_LONGEST,
    )


def _check_base(found: object, config: ModelConfig, base: Base, origin: str) -> None:
    """Raises CheckpointError if the adapter names a base that is not this one."""
    if found is None:
        return
    if not isinstance(found, dict) or found.keys() - {"architecture", "name", "weights_sha256"}:
        raise CheckpointError(
            f"{origin}: expected base to be an object with architecture, name and weights_sha256 alone, found {found!r}"
        )
    name = found.get("name", "another model")
    if found.get("architecture") not in (None, config.architecture):
        raise CheckpointError(
            f"{origin}: the adapter was made for {name} ({found['architecture']}), and {base.name} is "
            f"{config.architecture}; load it with its own base"
        )
    known = found.get("weights_sha256")
    digests: list[Any] = known if isinstance(known, list) else [known]
    if known is not None and base.weights_sha256() not in digests:
        raise CheckpointError(
            f"{origin}: the adapter was made for {name}, whose weights have the digest {', '.join(map(str, digests))}; "
            f"those of {base.name} have {base.weights_sha256()}; load it with its own base"
        )


def _drafting(fields: Mapping[str, Any], config: ModelConfig, origin: str) -> Drafting:
    if unknown := sorted(fields.keys() - _KEYS):
        raise CheckpointError(f"{origin}: {unknown[0]!r} is not known here; expected {', '.join(sorted(_KEYS))}")
    if fields.get("format") != FORMAT:
        raise CheckpointError(f"{origin}: expected format {FORMAT}, found {fields.get('format')!r}")
    exact_first, fills = (_flag(fields, key, origin) for key in ("exact_first", "fills_blocks"))
    found = Drafting(
        noise=_noise(fields.get("noise"), config, origin),
        causal=_word(fields, "attention", _ATTENTION, origin),
        ahead=_word(fields, "predicts", _PREDICTS, origin),
        exact_first=exact_first,
        seed_in_draft=not exact_first,
        longest=_longest(fields.get("block_lengths"), origin),
        fills=fills,
    )
    masked = found.noise.first == found.noise.last
    if found.fills and (found.causal or found.ahead or found.seed_in_draft or not masked):
        raise CheckpointError(
            f"{origin}: fills_blocks is true, which needs noise of one mask_token_id, attention 'block', predicts "
            "'own' and exact_first true"
        )
    if found.fills and config.family.masks:
        raise CheckpointError(
            f"{origin}: fills_blocks is true, and {config.architecture} weights fill blocks themselves"
        )
    return found


def _noise(found: object, config: ModelConfig, origin: str) -> Noise:
    match found:
        case {"mask_token_id": token, **rest} if not rest:
            ends: list[Any] = [token, token]
        case {"ids": [first, last], **rest} if not rest:
            ends = [first, last]
        case _:
            ends = []
    if list(map(type, ends)) == [int, int] and 0 <= ends[0] <= ends[1] < config.vocab_size:
        return Noise(first=ends[0], last=ends[1])
    raise CheckpointError(
        f"{origin}: expected noise to be {{'mask_token_id': ID}} or {{'ids': [FIRST, LAST]}} with ids below "
        f"vocab_size={config.vocab_size}, found {found!r}"
    )


def _word(fields: Mapping[str, Any], key: str, meanings: Mapping[str, bool], origin: str) -> bool:
    given = fields.get(key)
    if not isinstance(given, str) or given not in meanings:
        raise CheckpointError(f"{origin}: expected {key} to be {' or '.join(map(repr, meanings))}, found {given!r}")
    return meanings[given]


def _flag(fields: Mapping[str, Any], key: str, origin: str) -> bool:
    given = fields.get(key, False)
    if not isinstance(given, bool):
        raise CheckpointError(f"{origin}: expected {key} to be true or false, found {given!r}")
    return given


def _longest(found: object, origin: str) -> int | None:
    match found:
        case None:
            return None
        case [int(least), int(most)] if 2 <= least <= most <= 256:
            return most
        case _:
            raise CheckpointError(
                f"{origin}: expected block_lengths to be [SHORTEST, LONGEST], 2 to 256 tokens with the seed, found "
                f"{found!r}"
            )
