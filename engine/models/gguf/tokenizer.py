"""The tokenizer and chat template that a GGUF file carries in its metadata, written as a tokenizer.json.

Knows llama.cpp's names for pre-tokenizers and kinds of tokens, and what they are in `tokenizers`' words. A name that is
not known is refused: a near one would tokenise most texts alike and some not, and nobody would see it. Byte-level BPE
alone; SentencePiece vocabularies are refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from ...errors import CheckpointError
from ..tokenizer import Tokenizer
from .file import GgufFile
from .pre_tokenizers import CONTROL, DIGITS, GPT2, HUGGING_FACE, KEY, NORMAL, SPLITS, UNUSED, USER, WHOLE_WORDS

_ENDS: Final = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<end_of_turn>", "</s>",
)  # fmt: skip
"""Control tokens that end a text wherever they come, whatever the metadata names: llama.cpp's rule, shortened."""
_NAMED: Final = ("bos", "eos", "unknown", "padding")


def gguf_tokenizer(file: GgufFile) -> Tokenizer:
    """Raises CheckpointError for a tokenizer that is damaged or not known."""
    fields, special = tokenizer_json(file), _special(file)
    try:
        template = file.value("tokenizer.chat_template", str)
        return Tokenizer(json.dumps(fields, ensure_ascii=False), template, special, fields)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise file.error(f"the tokenizer in it cannot be used: {error}") from None


def end_ids(file: GgufFile) -> tuple[int, ...]:
    """The ids that end a text: EOS, end of turn and of message, then the control tokens that are known to."""
    tokens, kinds = _tokens(file)
    named = [_id(file, name, len(tokens)) for name in ("eos", "eot", "eom")]
    known = [at for at, token in enumerate(tokens) if kinds[at] == CONTROL and token in _ENDS]
    found = tuple(dict.fromkeys(at for at in (*named, *known) if at is not None))
    if not found:
        raise file.error(f"expected {KEY}eos_token_id, or a control token that ends a text; found neither")
    return found


def tokenizer_json(file: GgufFile) -> dict[str, Any]:
    """The fields of tokenizer.json: of the one in the file, or made of llama.cpp's keys. Raises CheckpointError."""
    whole = file.value(HUGGING_FACE, str)
    if whole is not None:
        return _whole(file, whole)
    model, pre = file.value(f"{KEY}model", str), file.value(f"{KEY}pre", str, "default")
    if model != "gpt2" or pre not in SPLITS:
        raise file.error(
            f"expected {KEY}model 'gpt2' and {KEY}pre one of {', '.join(SPLITS)}, found {model!r} and {pre!r}; load "
            "the same model from its directory with tokenizer.json and safetensors"
        )
    tokens, kinds = _tokens(file)
    added = [_added(token, at, kinds[at]) for at, token in enumerate(tokens) if kinds[at] != NORMAL]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(SPLITS[pre]),
        "post_processor": _post_processor(file, pre, tokens),
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": _vocabulary(file, tokens),
            "merges": _merges(file),
            "ignore_merges": pre in WHOLE_WORDS,
            "fuse_unk": False,
            "byte_fallback": False,
        },
    }


def _whole(file: GgufFile, text: str) -> dict[str, Any]:
    """The tokenizer.json that the file holds, where its tokens are those of llama.cpp's keys."""
    try:
        fields = json.loads(text)
        vocabulary = {**fields["model"]["vocab"]}
        vocabulary |= {token["content"]: token["id"] for token in fields.get("added_tokens") or ()}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise file.error(f"expected {HUGGING_FACE} to be a tokenizer.json, found none: {error!r}") from None
    tokens, _ = _tokens(file)
    _vocabulary(file, tokens)
    if vocabulary != {token: at for at, token in enumerate(tokens)}:
        raise file.error(f"expected {HUGGING_FACE} to have the tokens of {KEY}tokens, found others")
    return dict(fields)


def _tokens(file: GgufFile) -> tuple[list[str], list[int]]:
    """Texts and kinds of tokens by id, without the unused ones at the end, which pad the embedding."""
    tokens: list[str] = file.value(f"{KEY}tokens", list, [])
    kinds: list[int] = file.value(f"{KEY}token_type", list, [NORMAL] * len(tokens))
    if not tokens or not isinstance(tokens[0], str) or len(kinds) != len(tokens) or not isinstance(kinds[0], int):
        raise file.error(
            f"expected {KEY}tokens to be texts and {KEY}token_type as many numbers, found {len(tokens)} and "
            f"{len(kinds)}"
        )
    used = len(tokens)
    while used and kinds[used - 1] == UNUSED:
        used -= 1
    return tokens[:used], kinds[:used]


def _vocabulary(file: GgufFile, tokens: list[str]) -> dict[str, int]:
    found = {token: at for at, token in enumerate(tokens)}
    if len(found) != len(tokens):
        twice = next(token for at, token in enumerate(tokens) if found[token] != at)
        raise file.error(f"expected each of {KEY}tokens once, found {twice!r} twice")
    rows = file.places.get("token_embd.weight")
    if rows is not None and len(tokens) > rows.shape[0]:
        raise file.error(f"{len(tokens)} tokens, and the embedding has {rows.shape[0]} rows")
    return found


def _added(token: str, at: int, kind: int) -> dict[str, Any]:
    """An entry of `added_tokens`: text that reads as one token in a template. Control tokens are hidden in output."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": at, "content": token, **flags, "special": kind != USER}


def _merges(file: GgufFile) -> Sequence[tuple[str, ...]]:
    """Pairs of tokens. As tuples, because Python's garbage collector would walk over as many lists for 0.1 s."""
    merges: list[str] = file.value(f"{KEY}merges", list, [])
    pairs = [merge.partition(" ")[::2] if isinstance(merge, str) else () for merge in merges]
    if not pairs or not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise file.error(f"expected {KEY}merges to be pairs of tokens with a blank between, found others")
    return pairs


def _pre_tokenizer(splits: tuple[str, ...]) -> dict[str, Any]:
    """GPT-2's pattern is ByteLevel's own; the digits before it are what transformers' reader leaves out."""
    own = splits in (GPT2, DIGITS)
    cuts = [{"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False} for split in splits]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": own}
    return {"type": "Sequence", "pretokenizers": [*cuts, level]}


def _post_processor(file: GgufFile, pre: str, tokens: list[str]) -> dict[str, Any] | None:
    """BOS in front of a raw prompt, where the file says so or its pre-tokenizer implies it."""
    if file.value(f"{KEY}add_eos_token", bool, False):
        raise file.error(f"expected {KEY}add_eos_token to be false, found true: prompts would end before the answer")
    at = _id(file, "bos", len(tokens))
    if not file.value(f"{KEY}add_bos_token", bool, pre in WHOLE_WORDS) or at is None:
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
    at = file.value(f"{KEY}{name}_token_id", int)
    if at is None or 0 <= at < count:
        return None if at is None else int(at)
    raise CheckpointError(f"{file.path}: expected {KEY}{name}_token_id below {count}, found {at}")
