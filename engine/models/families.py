"""The checkpoint formats that this engine reads, one row each: names, block, and the modes that the weights can decode.

Knows architecture names, config keys and tensor-name prefixes. Does not know files, tensors, or how a mode decodes.
docs/families.md lists what a row for another family needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from ..errors import CheckpointError, ModeUnavailable, RequestError
from ..result import Mode

Allowed = Mapping[str, tuple[Any, ...]]
"""Allowed values by config key; the first one is named in errors."""

NLD: Final = "NemotronLabsDiffusionModel"
_CAUSAL: Final[tuple[Mode, ...]] = ("ar", "lookup_spec")
"""Modes of any weights that decode from left to right: neither masked slots nor a draft adapter are needed."""
_LLAMA_NAMES: Final = (("encoder.", "model."), ("diffusion_head.", "lm_head."))
_NO_BIAS: Final[Allowed] = {"attention_bias": (False, None), "mlp_bias": (False, None)}
_NO_WINDOW: Final[Allowed] = {"sliding_window": (None,)}
_HUGGING_FACE: Final[Allowed] = {**_NO_BIAS, "quantization_config": (None,)}
# The larger K2-Horizon models gate their attention, normalise queries and keys or have experts.
_K2_HORIZON: Final[Allowed] = {
    **_HUGGING_FACE,
    **_NO_WINDOW,
    "use_sliding_window": (False, None),
    "query_key_norm": (False, None),
    "attention_gate_func": (None,),
    **dict.fromkeys(("num_experts", "num_shared_experts", "mova_num_experts"), (0, None)),
}
_QWEN3: Final[Allowed] = {**_HUGGING_FACE, "use_sliding_window": (False, None)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row of the table.

    `modes`: what its weights can decode. `aligned_blocks`: they were trained on blocks counted from position 0, causal
    between blocks and bidirectional inside, without a causal first token; a block's length is then the weights' own.
    `block_size`: the default if config.json names none. `names`: (our prefix, the checkpoint's prefix) of tensor names.
    `norm_groups`: the key of config.json that says into how many equal parts the norms of hidden rows cut a row;
    empty for whole rows. `qk_norm`: queries and keys are normalised per head, before the rotation.
    `self_contained`: config.json alone names end and mask tokens, otherwise the files next to it may. `allowed`:
    config values that change the model. `absent`: the meaning of a key that config.json omits. `derived`: head_dim
    and num_key_value_heads may be omitted, for hidden_size / num_attention_heads and num_attention_heads. `inner`:
    the key of the text model's config, if the model has other parts as well; `others`: the prefixes of their
    tensors, which are not read.
    """

    modes: tuple[Mode, ...] = _CAUSAL
    aligned_blocks: bool = False
    block_size: int = 32
    names: tuple[tuple[str, str], ...] = _LLAMA_NAMES
    norm_groups: str = ""
    qk_norm: bool = False
    self_contained: bool = False
    allowed: Allowed = field(default_factory=lambda: {**_HUGGING_FACE, **_NO_WINDOW})
    absent: Mapping[str, Any] = field(default_factory=dict[str, Any])
    derived: bool = False
    inner: str = ""
    others: tuple[str, ...] = ()

    @property
    def masks(self) -> bool:
        """Whether some mode fills masked slots; such a family has a mask token."""
        return not set(self.modes) <= set(_CAUSAL)

    def stored(self, name: str) -> str:
        """Returns the checkpoint's name of our tensor `name`."""
        for ours, theirs in self.names:
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        return name


# A Mistral config without `"sliding_window": null` has a window of 4096. Qwen3 has a switch for its window, off by
# default; its width has no effect while it is off.
FAMILIES: Final[Mapping[str, Family]] = {
    NLD: Family(modes=get_args(Mode), names=(), self_contained=True, allowed={**_NO_BIAS, **_NO_WINDOW}),
    "LlamaForCausalLM": Family(derived=True, absent={"rope_theta": 10000.0}),
    "Qwen3ForCausalLM": Family(qk_norm=True, allowed=_QWEN3),
    "K2HorizonForCausalLM": Family(norm_groups="layernorm_num_groups", allowed=_K2_HORIZON),
    "SDARForCausalLM": Family(modes=("diffusion",), aligned_blocks=True, block_size=4, qk_norm=True, allowed=_QWEN3),
    "Ministral3ForCausalLM": Family(),
    "Mistral3ForConditionalGeneration": Family(  # Ministral 3 as published, with a vision tower
        names=(("encoder.", "language_model.model."), ("diffusion_head.", "language_model.lm_head.")),
        allowed={"model_type": ("ministral3", "mistral"), **_HUGGING_FACE, **_NO_WINDOW},
        absent={"sliding_window": 4096},
        inner="text_config",
        others=("vision_tower.", "multi_modal_projector."),
    ),
    "MistralForCausalLM": Family(derived=True, absent={"sliding_window": 4096}),
}


def architecture_of(found: object, origin: str) -> str:
    """Returns the first name of config.json's `architectures` that has a row. `origin` names the file in errors."""
    for name in found if isinstance(found, list) else ():
        if isinstance(name, str) and name in FAMILIES:
            return name
    known = ", ".join(map(repr, FAMILIES))
    raise CheckpointError(f"{origin}: expected architectures to hold one of {known}, found {found!r}")


def check_mode(architecture: str, mode: Mode, modes: tuple[Mode, ...] | None = None) -> None:
    """Raises ModeUnavailable if the weights of `architecture` cannot decode in `mode`.

    `modes`: what they can decode, if not what the family can. No other mode is taken instead.
    """
    modes = FAMILIES[architecture].modes if modes is None else modes
    if mode not in modes:
        raise ModeUnavailable(mode, architecture, modes)


def check_scoring(architecture: str) -> None:
    """Raises RequestError if no pass of these weights is causal, which scoring given tokens needs."""
    if "ar" not in FAMILIES[architecture].modes:
        raise RequestError(
            f"choice(), decide() and token_logprobs() read given tokens causally, as mode 'ar' writes them, and "
            f"{architecture} weights have no such mode; to choose, generate with a schema that allows the options alone"
        )


def check_infill(architecture: str, fills: bool = False) -> None:
    """Raises RequestError if blocks of these weights cannot begin where a prompt ends, which infilling needs.

    `fills`: a draft adapter fills the blocks.
    """
    if fills:
        raise RequestError(
            "infill() fills one block with the prompt's last token in it, and the draft adapter fills slots after that "
            "token; generate from the prompt instead"
        )
    if FAMILIES[architecture].aligned_blocks:
        raise RequestError(
            f"infill() fills one block that begins where the prompt ends, and blocks of {architecture} weights begin "
            "at multiples of their length; generate from the prompt instead"
        )
