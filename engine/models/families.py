"""The checkpoint formats that this engine reads, one row each: names, block, and what modes the weights are for.

Knows architecture names, config keys and tensor-name prefixes. Does not know files, tensors, or how a mode decodes.
docs/families.md says what a row for another family would need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from ..errors import CheckpointError, ModeUnavailable, RequestError
from ..result import Mode

Allowed = Mapping[str, tuple[Any, ...]]
"""Config key -> the values that this engine can run; the first one is named in errors."""

NLD: Final = "NemotronLabsDiffusionModel"
_AR: Final[tuple[Mode, ...]] = ("ar",)
_LLAMA_NAMES: Final = (("encoder.", "model."), ("diffusion_head.", "lm_head."))
_NO_BIAS: Final[Allowed] = {"attention_bias": (False, None), "mlp_bias": (False, None)}
_NO_WINDOW: Final[Allowed] = {"sliding_window": (None,)}
_HUGGING_FACE: Final[Allowed] = {**_NO_BIAS, "quantization_config": (None,)}
_QWEN3: Final[Allowed] = {**_HUGGING_FACE, "use_sliding_window": (False, None)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row of the table.

    `modes`: what its weights can decode. `aligned_blocks`: they were trained on blocks counted from position 0, causal
    between blocks and both ways inside, without a causal token to begin with; a block's length is then the weights'
    own. `block_size`: where config.json names none. `names`: (our prefix, the checkpoint's prefix) of tensor names.
    `qk_norm`: queries and keys are normalised per head, before the rotation. `self_contained`: config.json alone names
    end and mask tokens, otherwise files beside it may. `allowed`: config values that change the model.
    `absent`: what a key means that config.json leaves out. `derived`: head_dim and num_key_value_heads may be left out,
    for hidden_size / num_attention_heads and num_attention_heads. `inner`: where config.json keeps the text model's
    keys, if the model has other parts as well; `others`: the prefixes of their tensors, which are not read.
    """

    modes: tuple[Mode, ...] = _AR
    aligned_blocks: bool = False
    block_size: int = 32
    names: tuple[tuple[str, str], ...] = _LLAMA_NAMES
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
        return self.modes != _AR

    def stored(self, name: str) -> str:
        """The checkpoint's name of our tensor `name`."""
        for ours, theirs in self.names:
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        return name


# A window is 4096 wide where a Mistral config does not say `"sliding_window": null`. Qwen3 has a switch for its window,
# off by default, and its width means nothing while it is off.
FAMILIES: Final[Mapping[str, Family]] = {
    NLD: Family(modes=get_args(Mode), names=(), self_contained=True, allowed={**_NO_BIAS, **_NO_WINDOW}),
    "LlamaForCausalLM": Family(derived=True, absent={"rope_theta": 10000.0}),
    "Qwen3ForCausalLM": Family(qk_norm=True, allowed=_QWEN3),
    "SDARForCausalLM": Family(modes=("diffusion",), aligned_blocks=True, block_size=4, qk_norm=True, allowed=_QWEN3),
    "Ministral3ForCausalLM": Family(),
    "Mistral3ForConditionalGeneration": Family(  # how Ministral 3 is published: with a vision tower, which stays out
        names=(("encoder.", "language_model.model."), ("diffusion_head.", "language_model.lm_head.")),
        allowed={"model_type": ("ministral3", "mistral"), **_HUGGING_FACE, **_NO_WINDOW},
        absent={"sliding_window": 4096},
        inner="text_config",
        others=("vision_tower.", "multi_modal_projector."),
    ),
    "MistralForCausalLM": Family(derived=True, absent={"sliding_window": 4096}),
}


def architecture_of(found: object, origin: str) -> str:
    """The first name of config.json's `architectures` that has a row. `origin` names the file in errors."""
    for name in found if isinstance(found, list) else ():
        if isinstance(name, str) and name in FAMILIES:
            return name
    known = ", ".join(map(repr, FAMILIES))
    raise CheckpointError(f"{origin}: expected architectures to hold one of {known}, found {found!r}")


def check_mode(architecture: str, mode: Mode) -> None:
    """Raises ModeUnavailable if the weights of `architecture` cannot decode in `mode`. Nothing is chosen instead."""
    modes = FAMILIES[architecture].modes
    if mode not in modes:
        raise ModeUnavailable(mode, architecture, modes)


def check_scoring(architecture: str) -> None:
    """Raises RequestError if no pass of these weights is causal, as scoring whole answers needs it."""
    if "ar" not in FAMILIES[architecture].modes:
        raise RequestError(
            f"choice() reads whole answers causally, as mode 'ar' writes them, and {architecture} weights have no such "
            "mode; generate with a schema that allows the options alone"
        )


def check_infill(architecture: str) -> None:
    """Raises RequestError if blocks of these weights cannot begin where a prompt ends, as infilling's block does."""
    if FAMILIES[architecture].aligned_blocks:
        raise RequestError(
            f"infill() fills one block that begins where the prompt ends, and blocks of {architecture} weights begin "
            "at multiples of their length; generate from the prompt instead"
        )
