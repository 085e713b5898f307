"""A tokenizer.json and a chat template as the metadata of a GGUF file: the way back of `tokenizer`.

Knows llama.cpp's names for pre-tokenizers and kinds of tokens. What these cannot say is returned as sentences, and the
whole tokenizer.json is then written too, at the key that the format has for it: our reader takes that one, and
llama.cpp the nearest pre-tokenizer that it has. Byte-level BPE alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ...errors import CheckpointError
from ..tokenizer import Tokenizer
from .pre_tokenizers import CONTROL, DIGITS, GPT2, HUGGING_FACE, KEY, NORMAL, SPLITS, UNUSED, USER, WHOLE_WORDS

_DIGIT: Final = r"\p{N}"
_NEAREST: Final = {
    r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+": (
        "seed-coder",
        "llama.cpp has no pre-tokenizer like this one; in its nearest, seed-coder, an apostrophe takes the s, t, re, "
        "ve, m, ll or d after it where a word begins there ('tis, 'till), and such texts get other ids",
    ),
}
"""Patterns that llama.cpp lacks, to the nearest that it has, and how that one differs."""
_PLAIN_FLAGS: Final = ("single_word", "lstrip", "rstrip", "normalized")


@dataclass(frozen=True, slots=True)
class TokenizerKeys:
    """Keys of metadata, and a sentence for each thing that llama.cpp will not see."""

    keys: dict[str, Any]
    missing: list[str]


def tokenizer_keys(tokenizer: Tokenizer, rows: int, ends: Sequence[int], bos: int | None, origin: str) -> TokenizerKeys:
    """The keys for an embedding of `rows`, texts that end at `ends` and begin with `bos`. Raises CheckpointError."""
    fields = json.loads(tokenizer.json)
    model = fields.get("model") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback") or '"ByteLevel"' not in json.dumps(fields):
        raise CheckpointError(
            f"{origin}: expected byte-level BPE, the one kind of vocabulary that is written as GGUF, found "
            f"{model.get('type')!r}"
        )
    pre, missing = _pre(fields, origin)
    tokens, kinds = _tokens(fields, rows, origin)
    missing += _unlike(fields)
    keys: dict[str, Any] = {
        f"{KEY}model": "gpt2",
        f"{KEY}pre": pre,
        f"{KEY}tokens": tokens,
        f"{KEY}token_type": kinds,
        f"{KEY}merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        **{f"{KEY}{name}_token_id": at for name, at in _named(tokenizer, ends, bos).items()},
        f"{KEY}add_bos_token": _begins(tokenizer, origin),
    }
    if tokenizer.template.source is not None:
        keys["tokenizer.chat_template"] = tokenizer.template.source
    if missing:
        keys[HUGGING_FACE] = tokenizer.json
    return TokenizerKeys(keys, missing + _ends_unsaid(ends))


def _pre(fields: Mapping[str, Any], origin: str) -> tuple[str, list[str]]:
    """llama.cpp's name for how a text is cut, and how that differs from what `fields` say."""
    cuts, whole = _cuts(fields.get("pre_tokenizer")), bool((fields["model"]).get("ignore_merges"))
    for name, splits in SPLITS.items():
        if splits == cuts and (name in WHOLE_WORDS) == whole:
            return name, []
    if cuts is not None and len(cuts) == 1 and cuts[0] in _NEAREST and not whole:
        name, sentence = _NEAREST[cuts[0]]
        return name, [f"pre-tokenizer: {sentence}; trimode reads the tokenizer.json that is in the file"]
    raise CheckpointError(
        f"{origin}: llama.cpp has no pre-tokenizer like {json.dumps(fields.get('pre_tokenizer'))[:200]} (ignore_merges "
        f"{whole}); export the weights as ministral3, or load the directory itself"
    )


def _cuts(found: Any) -> tuple[str, ...] | None:
    """The patterns that cut a text before byte-level BPE, or None where that is more than patterns."""
    parts = (
        [found] if isinstance(found, dict) and found.get("type") != "Sequence" else (found or {}).get("pretokenizers")
    )
    if not parts or parts[-1].get("type") != "ByteLevel" or parts[-1].get("add_prefix_space"):
        return None
    cuts = tuple(_pattern(part) for part in parts[:-1])
    own = parts[-1].get("use_regex", True)
    if None in cuts or own != (cuts in (GPT2, DIGITS)):
        return None
    return tuple(cut for cut in cuts if cut is not None)


def _pattern(part: Mapping[str, Any]) -> str | None:
    """The pattern at which one pre-tokenizer cuts, each match by itself."""
    if part.get("type") == "Digits" and part.get("individual_digits"):
        return _DIGIT
    plain = part.get("type") == "Split" and part.get("behavior") == "Isolated" and not part.get("invert")
    return (part.get("pattern") or {}).get("Regex") if plain else None


def _tokens(fields: Mapping[str, Any], rows: int, origin: str) -> tuple[list[str], list[int]]:
    """Texts and kinds of all rows of the embedding; rows without a token are unused ones."""
    known: dict[int, tuple[str, int]] = {at: (text, NORMAL) for text, at in fields["model"]["vocab"].items()}
    for token in fields.get("added_tokens") or ():
        known[token["id"]] = (token["content"], CONTROL if token.get("special") else USER)
    if max(known) >= rows:
        raise CheckpointError(f"{origin}: token {max(known)} has no row in the embedding, which has {rows}")
    every = [known.get(at, (f"[PAD{at}]", UNUSED)) for at in range(rows)]
    return [text for text, _ in every], [kind for _, kind in every]


def _unlike(fields: Mapping[str, Any]) -> list[str]:
    """Settings that the keys have no place for."""
    normalizer = fields.get("normalizer")
    found = [] if normalizer is None else [f"normalizer {normalizer.get('type')}: llama.cpp takes texts as they are"]
    odd = [token["content"] for token in fields.get("added_tokens") or () if any(map(token.get, _PLAIN_FLAGS))]
    if odd:
        found.append(f"flags of {len(odd)} added tokens ({odd[0]!r}, ...): {', '.join(_PLAIN_FLAGS)} are not kept")
    return found


def _named(tokenizer: Tokenizer, ends: Sequence[int], bos: int | None) -> dict[str, int]:
    """Ids by llama.cpp's names: the markers that templates call by name, and up to three ends."""
    texts = {"bos": "bos_token", "unknown": "unk_token", "padding": "pad_token"}
    named = {
        name: tokenizer.markup.token_to_id(tokenizer.special[key])
        for name, key in texts.items()
        if key in tokenizer.special
    }
    found = {"bos": bos, **named, **dict(zip(("eos", "eot", "eom"), ends, strict=False))}
    return {name: at for name, at in found.items() if at is not None}


def _begins(tokenizer: Tokenizer, origin: str) -> bool:
    """Whether a raw prompt begins with BOS. Raises CheckpointError where more than that is added to it."""
    plain, whole = (tokenizer.markup.encode("a", add_special_tokens=special).ids for special in (False, True))
    added = len(whole) - len(plain)
    if whole[added:] != plain or added > 1:
        raise CheckpointError(
            f"{origin}: its tokenizer makes {whole} of the prompt {plain}; a GGUF file can say one token in front alone"
        )
    return added == 1


def _ends_unsaid(ends: Sequence[int]) -> list[str]:
    more = ends[3:]
    return [f"end tokens {', '.join(map(str, more))}: a GGUF file names three"] if more else []
