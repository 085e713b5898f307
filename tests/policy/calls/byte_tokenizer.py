"""A byte-level tokenizer as a checkpoint's directory holds it, for random weights that tests write themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as RawTokenizer


def write_tokenizer(directory: Path, markers: Sequence[str], fields: Mapping[str, str]) -> int:
    """Writes a tokenizer without merges and returns its size.

    `markers`: its last tokens. `fields`: tokenizer_config.json; a "bos_token" is put before every prompt.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = RawTokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in markers])
    if begin := fields.get("bos_token"):
        raw.post_processor = processors.TemplateProcessing(f"{begin} $A", None, [(begin, raw.token_to_id(begin))])
    raw.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(fields), encoding="utf-8")
    return raw.get_vocab_size()
