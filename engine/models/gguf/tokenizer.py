"""The tokenizer and chat template that a GGUF file carries in its metadata, written as a tokenizer.json.

Knows llama.cpp's names for pre-tokenizers and kinds of tokens, and what they are in `tokenizers`' words. A name that is
not known is refused: a near one would tokenise most texts alike and some not, and nobody would see it. Byte-level BPE
alone; SentencePiece vocabularies are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from ...errors import CheckpointError
from ..tokenizer import Tokenizer
from .file import GgufFile

_KEY: Final = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED = 1, 2, 3, 4, 5
_ENDS: Final = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<end_of_turn>", "</s>",
)  # fmt: skip
"""Control tokens that end a text wherever they come, whatever the metadata names: llama.cpp's rule, shortened."""
_NAMED: Final = ("bos", "eos", "unknown", "padding")

_LETTERS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT2: Final[tuple[str, ...]] = ()
_DIGITS: Final = (r"\p{N}",)
_LLAMA3: Final = (_LETTERS + r"\p{N}{1,3}|" + _REST,)
_QWEN2: Final = (_LETTERS + r"\p{N}|" + _REST,)
_TEKKEN: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_SPLITS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "exaone4"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe", "dbrx"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2),
    "tekken": _TEKKEN,
}
"""`tokenizer.ggml.pre` to the pattern that cuts a text before GPT-2's own (one of `_GPT2` and `_DIGITS`) or alone."""
_WHOLE_WORDS: Final = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")
"""Where a word that is a token is that token, whatever the merges; these put BOS in front unless told otherwise."""


def gguf_tokenizer(file: GgufFile) -> Tokenizer:
    """Raises CheckpointError for a tokenizer that is damaged or not known."""
    fields, special = tokenizer_json(file), _special(file)
    try:
        return Tokenizer(json.dumps(fields, ensure_ascii=False), file.value("tokenizer.chat_template", str), special)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise file.error(f"the tokenizer in it cannot be used: {error}") from None


def end_ids(file: GgufFile) -> tuple[int, ...]:
    """The ids that end a text: EOS, end of turn and of message, then the control tokens that are known to."""
    tokens, kinds = _tokens(file)
    named = [_id(file, name, len(tokens)) for name in ("eos", "eot", "eom")]
    known = [at for at, token in enumerate(tokens) if kinds[at] == _CONTROL and token in _ENDS]
    found = tuple(dict.fromkeys(at for at in (*named, *known) if at is not None))
    if not found:
        raise file.error(f"expected {_KEY}eos_token_id, or a control token that ends a text; found neither")
    return found


def tokenizer_json(file: GgufFile) -> dict[str, Any]:
    """The fields of tokenizer.json. Raises CheckpointError."""
    model, pre = file.value(f"{_KEY}model", str), file.value(f"{_KEY}pre", str, "default")
    if model != "gpt2" or pre not in _SPLITS:
        raise file.error(
            f"expected {_KEY}model 'gpt2' and {_KEY}pre one of {', '.join(_SPLITS)}, found {model!r} and {pre!r}; load "
            "the same model from its directory with tokenizer.json and safetensors"
        )
    tokens, kinds = _tokens(file)
    added = [_added(token, at, kinds[at]) for at, token in enumerate(tokens) if kinds[at] != _NORMAL]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(_SPLITS[pre]),
        "post_processor": _post_processor(file, pre, tokens),
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": _vocabulary(file, tokens),
            "merges": _merges(file),
            "ignore_merges": pre in _WHOLE_WORDS,
            "fuse_unk": False,
            "byte_fallback": False,
        },
    }


def _tokens(file: GgufFile) -> tuple[list[str], list[int]]:
    """Texts and kinds of tokens by id, without the unused ones at the end, which pad the embedding."""
    tokens: list[str] = file.value(f"{_KEY}tokens", list, [])
    kinds: list[int] = file.value(f"{_KEY}token_type", list, [_NORMAL] * len(tokens))
    if not tokens or not isinstance(tokens[0], str) or len(kinds) != len(tokens) or not isinstance(kinds[0], int):
        raise file.error(
            f"expected {_KEY}tokens to be texts and {_KEY}token_type as many numbers, found {len(tokens)} and "
            f"{len(kinds)}"
        )
    used = len(tokens)
    while used and kinds[used - 1] == _UNUSED:
        used -= 1
    return tokens[:used], kinds[:used]


def _vocabulary(file: GgufFile, tokens: list[str]) -> dict[str, int]:
    found = {token: at for at, token in enumerate(tokens)}
    if len(found) != len(tokens):
        twice = next(token for at, token in enumerate(tokens) if found[token] != at)
        raise file.error(f"expected each of {_KEY}tokens once, found {twice!r} twice")
    rows = file.places.get("token_embd.weight")
    if rows is not None and len(tokens) > rows.shape[0]:
        raise file.error(f"{len(tokens)} tokens, and the embedding has {rows.shape[0]} rows")
    return found


def _added(token: str, at: int, kind: int) -> dict[str, Any]:
    """An entry of `added_tokens`: text that reads as one token in a template. Control tokens are hidden in output."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": at, "content": token, **flags, "special": kind != _USER}


def _merges(file: GgufFile) -> list[list[str]]:
    merges: list[str] = file.value(f"{_KEY}merges", list, [])
    pairs = [list(merge.partition(" ")[::2]) if isinstance(merge, str) else [] for merge in merges]
    if not pairs or not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise file.error(f"expected {_KEY}merges to be pairs of tokens with a blank between, found others")
    return pairs


def _pre_tokenizer(splits: tuple[str, ...]) -> dict[str, Any]:
    """GPT-2's pattern is ByteLevel's own; the digits before it are what transformers' reader leaves out."""
    own = splits in (_GPT2, _DIGITS)
    cuts = [{"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False} for split in splits]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": own}
    return {"type": "Sequence", "pretokenizers": [*cuts, level]}


def _post_processor(file: GgufFile, pre: str, tokens: list[str]) -> dict[str, Any] | None:
    """BOS in front of a raw prompt, where the file says so or its pre-tokenizer implies it."""
    if file.value(f"{_KEY}add_eos_token", bool, False):
        raise file.error(f"expected {_KEY}add_eos_token to be false, found true: prompts would end before the answer")
    at = _id(file, "bos", len(tokens))
    if not file.value(f"{_KEY}add_bos_token", bool, pre in _WHOLE_WORDS) or at is None:
        return None
    bos = {"SpecialToken": {"id": tokens[at], "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, second],
        "special_tokens": {tokens[at]: {"id": tokens[at], "ids": [at], "tokens": [tokens[at]]}},
    }


def _special(file: GgufFile) -> dict[str, str]:
    """Markers by the names that templates call them."""
    tokens, _ = _tokens(file)
    names = {"unknown": "unk_token", "padding": "pad_token"}
    ids = {names.get(name, f"{name}_token"): _id(file, name, len(tokens)) for name in _NAMED}
    return {name: tokens[at] for name, at in ids.items() if at is not None}


def _id(file: GgufFile, name: str, count: int) -> int | None:
    """The id at `tokenizer.ggml.<name>_token_id`; None where there is none. Raises CheckpointError outside `count`."""
    at = file.value(f"{_KEY}{name}_token_id", int)
    if at is None or 0 <= at < count:
        return None if at is None else int(at)
    raise CheckpointError(f"{file.path}: expected {_KEY}{name}_token_id below {count}, found {at}")
