"""What stands in the slots of a draft that an adapter is trained for.

Knows a tokenizer's markers. Does not know drafts.
"""

from __future__ import annotations

from typing import Final

from trimode.engine.models.config import ModelConfig
from trimode.engine.models.tokenizer import Tokenizer

from .errors import TrainingError

MASK: Final = "mask"
RANDOM: Final = "random"


def noise_ids(word: str, config: ModelConfig, tokenizer: Tokenizer) -> tuple[int, int]:
    """Returns first and last id of the noise that `word` asks for: "mask", "random", or an id.

    "mask" is the mask token of the base, if it has one, else the last control token that neither ends a text nor stands
    in the chat template: texts do not hold it. "random" is every id of the vocabulary but the first.
    Raises TrainingError.
    """
    idle = _idle(config, tokenizer)
    if word == RANDOM:
        return 1, min(tokenizer.vocab_size, config.vocab_size) - 1
    if word == MASK:
        if not idle:
            raise TrainingError("noise 'mask': this base has no control token to spare; give an id, or 'random'")
        return idle[-1], idle[-1]
    if not word.isdecimal() or int(word) >= config.vocab_size:
        raise TrainingError(f"noise {word!r}: expected 'mask', 'random' or an id below {config.vocab_size}")
    return int(word), int(word)


def _idle(config: ModelConfig, tokenizer: Tokenizer) -> list[int]:
    """Returns the ids of control tokens that no text of a call holds; the mask token, where there is one, last."""
    template = tokenizer.template.source or ""
    found = [tokenizer.marker(text) for text in tokenizer.markers if text not in template]
    named = set(tokenizer.special.values())
    spare = [
        one
        for one in found
        if one is not None and one not in config.eos_token_ids and tokenizer.token(one) not in named
    ]
    masks = [config.mask_id] if config.family.masks else []
    return [*sorted(one for one in spare if one < config.vocab_size), *masks]
