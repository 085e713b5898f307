"""Ids of special tokens that files beside config.json name: ends of a turn, and the mask token.

Knows file names and keys. Does not know families.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .fields import number, read_object


def generation_ends(directory: Path) -> dict[str, Any]:
    """Returns `eos_token_id` of generation_config.json, if it has one.

    Llama and Qwen chat models name the token that ends a turn there, and sometimes only there; `transformers` stops at
    those ids and ignores config.json's if both are given, and so does this engine.
    """
    path = directory / "generation_config.json"
    ends = read_object(path).get("eos_token_id") if path.is_file() else None
    return {} if ends is None else {"eos_token_id": ends}


def mask_of_files(directory: Path) -> int | None:
    """Returns the id of the mask token: of config.json, of tokenizer_config.json, or of a token named `<|MASK|>`."""
    given = read_object(directory / "config.json").get("mask_token_id")
    if isinstance(given, int):
        return given
    return next((found for text in (_mask_text(directory), "<|MASK|>") if (found := _added(directory, text))), None)


def _mask_text(directory: Path) -> str | None:
    """Returns the text of the mask token that tokenizer_config.json names."""
    path = directory / "tokenizer_config.json"
    mask = read_object(path).get("mask_token") if path.is_file() else None
    return mask.get("content") if isinstance(mask, dict) else mask


def _added(directory: Path, text: str | None) -> int | None:
    """Returns the id of the added token `text` of tokenizer.json."""
    path = directory / "tokenizer.json"
    added = read_object(path).get("added_tokens") if path.is_file() else None
    for token in added if isinstance(added, list) else ():
        if text is not None and isinstance(token, dict) and token.get("content") == text:
            return int(number(token, "id", f"{path} added_tokens {text!r}"))
    return None


def named_mask(directory: Path) -> int:
    """Returns the id of the mask token that tokenizer_config.json names, from tokenizer.json."""
    text = _mask_text(directory)
    if (found := _added(directory, text)) is not None:
        return found
    raise CheckpointError(
        f"{directory}: expected mask_token_id in config.json, or mask_token in tokenizer_config.json and its text in "
        f"added_tokens of tokenizer.json; found no mask_token_id, and mask_token {text!r}"
    )
