"""Trains the reference tokenizer: byte-level BPE over the rendered episodes of the training pack.

Knows the special tokens of the reference checkpoint. Every id below `FIRST_FREE` is a control token.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<SPECIAL_100>")
THINKING = ("<think>", "</think>")
BOS, EOS, MASK = 1, 4, 5
FIRST_FREE = len(SPECIAL) + len(THINKING)
# Words with their leading space, single digits, punctuation runs, line breaks: numbers stay digit by digit.
WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer whose control markers are added tokens, the thinking pair being non-special as in NLD."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *THINKING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in THINKING])
    return tokenizer
