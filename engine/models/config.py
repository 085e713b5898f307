"""`config.json` of a checkpoint as a frozen dataclass, for every family.

Knows which keys a model needs and reads the older and newer forms of rope settings; families.py lists which variants of
a family can run. Does not know weights or devices. Errors say what was expected and what was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

from ..drafting import LINEAR_BLOCK, QUADRATIC_BLOCK, Drafting, Noise
from ..errors import CheckpointError, RequestError
from ..options import (
    SELECTIONS,
    AdaptiveOptions,
    AlignedOptions,
    DiffusionOptions,
    ExactOptions,
    InfillOptions,
    LinearSpecOptions,
    ModeOptions,
    Options,
    QuadraticSpecOptions,
    SectionOptions,
    Selection,
)
from ..result import Mode
from .families import FAMILIES, NLD, Family, architecture_of
from .fields import number, read_object
from .rope_config import RopeConfig, rope_config
from .special_tokens import generation_ends, named_mask

_DIFFUSION_BLOCK: Final = 32
"""Length of a diffusion block if neither the request nor the weights fix it."""
OWN: Final = "trimode"
"""Key of config.json for this engine's own settings: how these weights are best decoded, if not by the defaults."""
_SELECTION: Final = "diffusion_selection"
_EXACT_FIRST: Final = "exact_first"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Family, geometry, special tokens and rope of one model. Lengths are in tokens.

    `norm_groups`: equal parts of a hidden row that its norms normalise each on its own. `exact_first`: whether the
    model's own drafts are better with the option of `linear_spec` of that name. `drafts`:
    how the draft adapter that was loaded for the model drafts; None if it says nothing of its own.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    mask_token_id: int | None
    eos_token_ids: tuple[int, ...]
    rope: RopeConfig
    block_size: int = 32
    tie_word_embeddings: bool = False
    architecture: str = NLD
    selection: Selection = "vendor"
    exact_first: bool = False
    norm_groups: int = 1
    drafts: Drafting | None = None

    @property
    def family(self) -> Family:
        return FAMILIES[self.architecture]

    @property
    def mask_id(self) -> int:
        """The id in masked slots; -1, which no embedding has, for weights without masks."""
        if self.mask_token_id is None and self.drafts is not None and self.drafts.fills:
            return self.drafts.noise.first
        return -1 if self.mask_token_id is None else self.mask_token_id

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What the weights can decode: the family's modes, and those of the draft adapter."""
        if self.drafts is None:
            return self.family.modes
        more = {"linear_spec", "quadratic_spec", *(("diffusion",) if self.drafts.fills else ())}
        return tuple(mode for mode in get_args(Mode) if mode in more.union(self.family.modes))

    @property
    def drafting(self) -> Drafting:
        """How drafts are made: as the adapter says, or as weights do that fill masked blocks."""
        return self.drafts or Drafting(noise=Noise.mask(self.mask_id), exact_first=self.exact_first)

    @property
    def aligned_block(self) -> int:
        """Tokens whose cache entries depend on each other, counted from position 0; 1 if entries are causal."""
        return self.block_size if self.family.aligned_blocks else 1

    def fitted(self, options: Options) -> Options:
        """Returns `options` for these weights, with every default replaced by a value.

        Raises RequestError for a block length or a layout that the weights were not trained for, if they take only one.
        """
        if isinstance(options, SectionOptions):
            kinds = {kind: self.fitted_mode(own) for kind, own in options.kinds.items()}
            numbers = {number: self.fitted_mode(own) for number, own in options.numbers.items()}
            return replace(options, kinds=kinds, numbers=numbers)
        return options if isinstance(options, InfillOptions) else self.fitted_mode(options)

    def _fitted_drafts(self, options: ExactOptions) -> ExactOptions:
        """Returns `options` with the block length and layout of this model's drafts, where these are left open."""
        drafting = self.drafting
        match options:
            case LinearSpecOptions():
                exact = drafting.exact_first if options.exact_first is None else options.exact_first
                if not exact and not drafting.seed_in_draft:
                    raise RequestError(
                        "exact_first=False: the draft adapter was trained with the last known token outside the draft; "
                        "leave it out"
                    )
                length = drafting.block_length(options.block_length, LINEAR_BLOCK)
                return replace(options, block_length=length, exact_first=exact)
            case QuadraticSpecOptions():
                return replace(options, block_length=drafting.block_length(options.block_length, QUADRATIC_BLOCK))
            case _:
                return options

    def fitted_mode(self, options: ModeOptions) -> ModeOptions:
        """`fitted` for the options of one mode."""
        match options:
            case DiffusionOptions() | AlignedOptions():
                return self._fitted_diffusion(options)
            case AdaptiveOptions():
                return replace(options, first=self._fitted_drafts(options.first))
            case _:
                return self._fitted_drafts(options)

    def _fitted_diffusion(self, options: DiffusionOptions | AlignedOptions) -> DiffusionOptions | AlignedOptions:
        given, threshold, selection = options.block_length, options.threshold, options.selection or self.selection
        if not self.family.aligned_blocks:
            length = _DIFFUSION_BLOCK if given is None else given
            return DiffusionOptions(block_length=length, threshold=threshold, selection=selection)
        if given not in (None, self.block_size):
            raise RequestError(
                f"block_length={given}: these {self.architecture} weights were trained for blocks of "
                f"{self.block_size}; leave it out"
            )
        return AlignedOptions(block_length=self.block_size, threshold=threshold, selection=selection)

    @classmethod
    def load(cls, directory: Path) -> ModelConfig:
        path = directory / "config.json"
        if not path.is_file():
            raise CheckpointError(f"no config.json in {directory}")
        fields = read_object(path)
        family = FAMILIES[architecture_of(fields.get("architectures"), str(path))]
        extra = {} if family.self_contained else generation_ends(directory)
        if family.masks and not family.self_contained and fields.get("mask_token_id") is None:
            extra["mask_token_id"] = named_mask(directory)
        return cls.from_dict({**_flat(fields, family, str(path)), **extra}, str(path))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], origin: str = "config") -> ModelConfig:
        """Checks the variant, then reads every key that the geometry needs. `origin` names the file in errors."""
        architecture = architecture_of(fields.get("architectures"), origin)
        family = FAMILIES[architecture]
        fields = _completed(_flat(fields, family, origin), family)
        _check_variant(fields, family, origin)
        config = cls(
            **{key: number(fields, key, origin) for key in _INTEGERS},
            rms_norm_eps=number(fields, "rms_norm_eps", origin, float),
            mask_token_id=number(fields, "mask_token_id", origin) if family.masks else None,
            eos_token_ids=_eos(fields, origin),
            rope=rope_config(fields, origin),
            block_size=family.block_size if fields.get("block_size") is None else number(fields, "block_size", origin),
            tie_word_embeddings=bool(fields.get("tie_word_embeddings", False)),
            architecture=architecture,
            selection=_selection(fields, origin),
            exact_first=_exact_first(fields, origin),
            norm_groups=number(fields, family.norm_groups, origin) if family.norm_groups else 1,
        )
        _check_geometry(config, origin)
        return config


_INTEGERS: Final = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings",
)  # fmt: skip


def _check_geometry(config: ModelConfig, origin: str) -> None:
    for key in (*_INTEGERS, "block_size"):
        if getattr(config, key) == 0:
            raise CheckpointError(f"{origin}: expected {key} to be positive, found 0")
    if config.num_attention_heads % config.num_key_value_heads:
        raise CheckpointError(
            f"{origin}: num_attention_heads={config.num_attention_heads} is no multiple of "
            f"num_key_value_heads={config.num_key_value_heads}"
        )
    if config.norm_groups == 0 or config.hidden_size % config.norm_groups:
        raise CheckpointError(
            f"{origin}: expected {config.family.norm_groups} to divide hidden_size={config.hidden_size}, found "
            f"{config.norm_groups}"
        )
    if config.head_dim % 2:
        raise CheckpointError(f"{origin}: expected head_dim to be even, found {config.head_dim}")
    for key, token in (
        ("mask_token_id", config.mask_token_id),
        *(("eos_token_id", end) for end in config.eos_token_ids),
    ):
        if token is not None and not 0 <= token < config.vocab_size:
            raise CheckpointError(f"{origin}: expected {key} below vocab_size={config.vocab_size}, found {token}")


def _flat(fields: Mapping[str, Any], family: Family, origin: str) -> dict[str, Any]:
    """Returns `fields` with the text model's own keys over the whole model's, whose `tie_word_embeddings` wins."""
    whole = dict(fields)
    if not family.inner or family.inner not in whole:
        return whole
    inner = whole.pop(family.inner)
    if not isinstance(inner, dict):
        raise CheckpointError(f"{origin}: expected {family.inner} to be an object, found {inner!r}")
    tied = {key: whole[key] for key in ("tie_word_embeddings",) if key in whole}
    return {**whole, **inner, **tied, "architectures": fields.get("architectures")}


def _completed(fields: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Returns `fields` with defaults for the keys that the family lets config.json omit."""
    full = {**family.absent, **fields}
    hidden, heads = full.get("hidden_size"), full.get("num_attention_heads")
    if family.derived and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        for key, value in (("head_dim", hidden // heads), ("num_key_value_heads", heads)):
            full[key] = value if full.get(key) is None else full[key]
    return full


def _check_variant(fields: Mapping[str, Any], family: Family, origin: str) -> None:
    for key, allowed in family.allowed.items():
        if fields.get(key) not in allowed:
            raise CheckpointError(f"{origin}: expected {key} to be {allowed[0]!r}, found {fields[key]!r}")
    if fields.get("rope_head_dim") not in (None, fields.get("head_dim")):
        raise CheckpointError(
            f"{origin}: expected rope_head_dim to be head_dim={fields.get('head_dim')}, found "
            f"{fields['rope_head_dim']!r}"
        )
    if fields.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"{origin}: expected hidden_act 'silu', found {fields['hidden_act']!r}")
    kinds = fields.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)):
        raise CheckpointError(f"{origin}: expected layer_types to be 'full_attention' throughout, found {kinds!r}")


def _own(fields: Mapping[str, Any], origin: str) -> dict[str, Any]:
    own = fields.get(OWN, {})
    if not isinstance(own, dict) or own.keys() - {_SELECTION, _EXACT_FIRST}:
        raise CheckpointError(
            f"{origin}: expected {OWN} to be an object with {_SELECTION} and {_EXACT_FIRST} alone, found {own!r}"
        )
    return own


def _exact_first(fields: Mapping[str, Any], origin: str) -> bool:
    given = _own(fields, origin).get(_EXACT_FIRST, False)
    if not isinstance(given, bool):
        raise CheckpointError(f"{origin}: expected {OWN}.{_EXACT_FIRST} to be true or false, found {given!r}")
    return given


def _selection(fields: Mapping[str, Any], origin: str) -> Selection:
    given = _own(fields, origin).get(_SELECTION, "vendor")
    for known in SELECTIONS:
        if given == known:
            return known
    expected = " or ".join(map(repr, SELECTIONS))
    raise CheckpointError(f"{origin}: expected {OWN}.{_SELECTION} to be {expected}, found {given!r}")


def _eos(fields: Mapping[str, Any], origin: str) -> tuple[int, ...]:
    value = fields.get("eos_token_id")
    ids: list[Any] = value if isinstance(value, list) else [value]
    if not ids or not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise CheckpointError(f"{origin}: expected eos_token_id to be an id or a list of ids, found {value!r}")
    return tuple(ids)
