"""llama.cpp's names for pre-tokenizers and kinds of tokens, and what they are in `tokenizers`' words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

KEY: Final = "tokenizer.ggml."
HUGGING_FACE: Final = "tokenizer.huggingface.json"
"""The key at which a file may hold a whole tokenizer.json (ggml's GGUF specification)."""
NORMAL, UNKNOWN, CONTROL, USER, UNUSED = 1, 2, 3, 4, 5
"""Kinds of tokens, as `tokenizer.ggml.token_type` numbers them."""

_LETTERS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT2: Final[tuple[str, ...]] = ()
DIGITS: Final[tuple[str, ...]] = (r"\p{N}",)
_LLAMA3: Final = (_LETTERS + r"\p{N}{1,3}|" + _REST,)
_QWEN2: Final = (_LETTERS + r"\p{N}|" + _REST,)
_TEKKEN: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
SPLITS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "exaone4"), GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe", "dbrx"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2),
    "tekken": _TEKKEN,
}
"""`tokenizer.ggml.pre` to the patterns that cut a text before GPT-2's own (one of `GPT2` and `DIGITS`) or alone."""
WHOLE_WORDS: Final = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")
"""Where a word that is a token is that token, whatever the merges; these put BOS in front unless told otherwise."""
