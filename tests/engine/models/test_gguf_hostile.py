"""GGUF files that are damaged, lie or ask for too much: a CheckpointError that names file and fault, at once, and
nothing allocated that the file's own length does not pay for."""

from __future__ import annotations

import json
import os
import random
import struct
import tracemalloc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf_files
import pytest
import torch

from trimode.engine.errors import CheckpointError
from trimode.engine.models.checkpoint import Checkpoint
from trimode.engine.models.gguf.file import GgufFile
from trimode.engine.models.weights import load_model

CPU = torch.device("cpu")


def load(path: Path) -> None:
    Checkpoint(path, "hostile").load(torch.float32, CPU)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file that loads: 430 kB, of which 20 kB are header."""
    path = gguf_files.written(tmp_path_factory.mktemp("gguf") / "model.gguf")
    load(path)
    return path.read_bytes()


@contextmanager
def refused(path: Path, said: str) -> Generator[None]:
    """Expects a CheckpointError that names the file and matches `said`, without more than 32 MB on the way."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=said) as caught:
            yield
        assert str(path) in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def outcome(path: Path) -> str:
    """What refused the file, in words; empty where it loads."""
    try:
        load(path)
    except CheckpointError as error:
        return str(error)
    return ""


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def header(keys: bytes = b"", tensors: bytes = b"", counts: tuple[int, int] = (0, 0), version: int = 3) -> bytes:
    """Magic, version, numbers of (tensors, keys), and then whatever is said."""
    return b"GGUF" + struct.pack("<IQQ", version, *counts) + keys + tensors + bytes(4096)


def key(name: str | bytes, kind: int, payload: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + payload


def tensor(name: str = "x", shape: tuple[int, ...] = (32,), kind: int = 0, start: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, start)


HUGE = 1 << 62
FILES: list[tuple[str, bytes, str]] = [
    ("empty", b"", "is not a GGUF file"),
    ("magic", b"GGML" + bytes(100), "is not a GGUF file"),
    ("magic alone", b"GGUF", "the version at byte 4 cannot be in the 0 bytes that are left"),
    ("version 1", header(version=1), "expected version 2 or 3, found 1; convert it again"),
    ("version 4", header(version=4), "expected version 2 or 3, found 4"),
    ("big-endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "found 3, written for big-endian machines"),
    ("tensors", header(counts=(HUGE, 0)), f"{HUGE} tensors at byte 24 cannot be in the 4096 bytes"),
    ("keys", header(counts=(0, HUGE)), f"{HUGE} keys at byte 24 cannot be in the 4096 bytes"),
    ("long key", header(struct.pack("<Q", HUGE), counts=(0, 1)), "a key at byte 32 cannot be in"),
    ("key that is no text", header(key(b"\xff\xfe", 4, bytes(4)), counts=(0, 1)), "a key at byte 32 is not UTF-8"),
    ("value that is no text", header(key("a", 8, string(b"\xc3("))), "the rest"),
    ("long string", header(key("a", 8, struct.pack("<Q", HUGE)), counts=(0, 1)), "'a' at byte 45 cannot be in"),
    ("twice", header(2 * key("a", 4, bytes(4)), counts=(0, 2)), "the key 'a' is there twice"),
    ("type of a value", header(key("a", 13, bytes(4)), counts=(0, 1)), "'a' has the unknown type 13"),
    ("bool", header(key("a", 7, b"\x02"), counts=(0, 1)), "expected 'a' to be 0 or 1, as its type says, found 2"),
    ("long array", header(key("a", 9, struct.pack("<IQ", 8, HUGE)), counts=(0, 1)), "cannot be in"),
    ("long numbers", header(key("a", 9, struct.pack("<IQ", 12, HUGE)), counts=(0, 1)), "cannot be in"),
    ("array in array", header(key("a", 9, struct.pack("<IQ", 9, 1)), counts=(0, 1)), "'a' is an array of type 9"),
    ("array of unknown", header(key("a", 9, struct.pack("<IQ", 77, 1)), counts=(0, 1)), "'a' is an array of type 77"),
    ("dimensions", header(tensors=tensor(shape=(1,) * 5), counts=(1, 0)), "expected 1 to 4 dimensions of 'x', found 5"),
    ("no dimension", header(tensors=tensor(shape=()), counts=(1, 0)), "expected 1 to 4 dimensions of 'x', found 0"),
    ("giant", header(tensors=tensor(shape=(HUGE, HUGE)), counts=(1, 0)), "does not lie in the 4161 bytes"),
    ("no numbers", header(tensors=tensor(shape=(0, 32)), counts=(1, 0)), "expected rows of whole blocks of 1"),
    ("half a block", header(tensors=tensor(shape=(33,), kind=8), counts=(1, 0)), "whole blocks of 32"),
    ("unknown type", header(tensors=tensor(kind=999), counts=(1, 0)), "'x' has the unknown type 999"),
    ("removed type", header(tensors=tensor(kind=4), counts=(1, 0)), "'x' has the unknown type 4"),
    ("type not read", header(tensors=tensor(shape=(256,), kind=23), counts=(1, 0)), "'x' is stored as IQ4_XS.*Q8_0"),
    ("behind the end", header(tensors=tensor(start=HUGE), counts=(1, 0)), "may have been cut off"),
    ("crooked", header(tensors=tensor(start=33), counts=(1, 0)), "at a multiple of 32"),
    ("two alike", header(tensors=2 * tensor(), counts=(2, 0)), "the tensor 'x' is there twice"),
    ("shared bytes", header(tensors=tensor() + tensor("y"), counts=(2, 0)), "'y' begins inside 'x'"),
    ("alignment", header(key("general.alignment", 4, struct.pack("<I", 24)), counts=(0, 1)), "a power of two"),
    (
        "alignment 0",
        header(key("general.alignment", 4, bytes(4)), counts=(0, 1)),
        "a power of two up to 1 MiB, found 0",
    ),
    ("no architecture", header(), "expected general.architecture to be one of llama, qwen3, mistral3"),
]


@pytest.mark.parametrize(("name", "raw", "said"), FILES, ids=[name for name, *_ in FILES])
def test_a_header_that_lies_is_refused(tmp_path: Path, name: str, raw: bytes, said: str) -> None:
    path = tmp_path / "model.gguf"
    if name == "value that is no text":
        raw, said = header(key("a", 8, string(b"\xc3(")), counts=(0, 1)), "'a' at byte 45 is not UTF-8"
    path.write_bytes(raw)
    with refused(path, said):
        load(path)


KEYS: list[tuple[dict[str, Any], str]] = [
    ({"general__architecture": "gemma3"}, "expected general.architecture to be one of llama, .* found 'gemma3'"),
    ({"general__type": "adapter"}, "found 'llama' and 'adapter'"),
    ({"split__count": 3}, "one of 3 parts of a model; join them: llama-gguf-split --merge"),
    ({"llama__expert_count": 8}, "llama.expert_count=8: not a plain model of this architecture"),
    ({"llama__attention__sliding_window": 4096}, "llama.attention.sliding_window=4096: not a plain model"),
    ({"llama__attention__causal": False}, "expected llama.attention.causal to be True, found False"),
    ({"llama__rope__scaling__attn_factor": 2.0}, "expected llama.rope.scaling.attn_factor to be 1, found 2.0"),
    ({"llama__rope__scaling__type": "longrope"}, "to be none, linear or yarn, found 'longrope'"),
    ({"llama__rope__scaling__type": "linear"}, "expected llama.rope.scaling.factor > 0"),
    ({"llama__rope__scaling__type": "yarn"}, "expected rope_parameters.factor with rope_type 'yarn', found nothing"),
    ({"llama__rope__freq_base": float("nan")}, "expected llama.rope.freq_base to be a finite number, found nan"),
    ({"llama__rope__freq_base": "10000"}, "expected llama.rope.freq_base to be int or float, found '10000'"),
    ({"llama__block_count": None}, "expected num_hidden_layers to be a non-negative int"),
    ({"llama__block_count": (1 << 32) - 1}, "llama.block_count=4294967295, and 21 tensors are there"),
    ({"llama__block_count": 3}, r"missing: blk.2.attn_k.weight, .* \(9 in all\)"),
    ({"llama__block_count": 1}, r"unexpected: blk.1.attn_k.weight, .* \(9 in all\)"),
    ({"llama__attention__head_count": [4, 4]}, "expected llama.attention.head_count to be int, found"),
    ({"llama__attention__head_count": 0}, "expected num_attention_heads to be positive, found 0"),
    ({"llama__attention__head_count_kv": 3}, "num_attention_heads=4 is no multiple of num_key_value_heads=3"),
    ({"llama__attention__head_count_kv": 4}, r"blk.0.attn_k.weight: expected \[64, 64\], found \[32, 64\]"),
    ({"llama__attention__key_length": (1 << 32) - 2, "llama__rope__scaling__type": "linear",
      "llama__rope__scaling__factor": 2.0}, "expected llama.attention.value_length to be the length of a head"),
    ({"llama__attention__key_length": (1 << 32) - 2, "llama__attention__value_length": (1 << 32) - 2,
      "llama__rope__dimension_count": (1 << 32) - 2, "llama__rope__scaling__type": "linear",
      "llama__rope__scaling__factor": 2.0}, "expected blk.0.attn_q.weight with 17179869176 rows"),
    ({"llama__rope__dimension_count": 8}, "expected llama.rope.dimension_count to be the length of a head, 16"),
    ({"llama__embedding_length": (1 << 32) - 1}, r"expected \[320, 4294967295\], found \[320, 64\]"),
    ({"llama__feed_forward_length": (1 << 32) - 1}, r"expected \[4294967295, 64\]|expected \[64, 4294967295\]"),
    ({"llama__context_length": (1 << 32) - 1}, r"expected llama.context_length below 2\^31"),
    ({"llama__vocab_size": 321}, "to be the rows of token_embd.weight, 320, found 321"),
    ({"tokenizer__ggml__model": "llama"}, "expected tokenizer.ggml.model 'gpt2' .* with tokenizer.json and safe"),
    ({"tokenizer__ggml__pre": "default"}, "found 'gpt2' and 'default'"),
    ({"tokenizer__ggml__pre": None}, "found 'gpt2' and 'default'"),
    ({"tokenizer__ggml__tokens": None}, "expected tokenizer.ggml.tokens to be texts"),
    ({"tokenizer__ggml__tokens": [1, 2]}, "expected tokenizer.ggml.tokens to be texts"),
    ({"tokenizer__ggml__token_type": [1, 1]}, "as many numbers, found 320 and 2"),
    ({"tokenizer__ggml__tokens": ["a"] * 320}, "expected each of tokenizer.ggml.tokens once, found 'a' twice"),
    ({"tokenizer__ggml__merges": None}, "expected tokenizer.ggml.merges to be pairs"),
    ({"tokenizer__ggml__merges": ["ab"]}, "expected tokenizer.ggml.merges to be pairs"),
    ({"tokenizer__ggml__merges": ["nobody knows"]}, "the tokenizer in it cannot be used: .*nobody"),
    ({"tokenizer__ggml__eos_token_id": 320}, "expected tokenizer.ggml.eos_token_id below 291, found 320"),
    ({"tokenizer__ggml__eos_token_id": "2"}, "expected tokenizer.ggml.eos_token_id to be int, found '2'"),
    ({"tokenizer__ggml__add_eos_token": True}, "prompts would end before the answer"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "said"), KEYS, ids=lambda value: str(value)[:60])
def test_metadata_that_cannot_be_is_refused(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    path = gguf_files.written(tmp_path / "model.gguf", **keys)
    with refused(path, said):
        load(path)


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    tokens, kinds, _ = gguf_files.vocabulary(320)
    keys: dict[str, Any] = {
        "tokenizer__ggml__tokens": [*tokens, "one more"],
        "tokenizer__ggml__token_type": [*kinds, 1],
    }
    path = gguf_files.written(tmp_path / "model.gguf", **keys)
    with refused(path, "321 tokens, and the embedding has 320 rows"):
        load(path)


def test_no_end_is_refused(tmp_path: Path) -> None:
    kinds = [1 if kind == 3 else kind for kind in gguf_files.vocabulary(320)[1]]
    keys: dict[str, Any] = {"tokenizer__ggml__eos_token_id": None, "tokenizer__ggml__token_type": kinds}
    path = gguf_files.written(tmp_path / "model.gguf", **keys)
    with refused(path, "expected tokenizer.ggml.eos_token_id, or a control token that ends a text; found neither"):
        load(path)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_rope_factors_that_divide_nothing_are_refused(tmp_path: Path, factor: float) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}  # fmt: skip
    path = gguf_files.written(tmp_path / "model.gguf", gguf_files.oracle(rope_parameters=rope))
    load(path)
    start = GgufFile.read(path).places["rope_freqs.weight"].start
    raw = bytearray(path.read_bytes())
    raw[start + 4 : start + 8] = struct.pack("<f", factor)
    path.write_bytes(raw)
    with refused(path, "expected rope_freqs.weight to be finite and positive"):
        load(path)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, kind: str) -> None:
    path = gguf_files.written(tmp_path / "model.gguf", kind=kind)
    file = GgufFile.read(path)
    place = file.places["blk.1.ffn_up.weight"]
    raw = bytearray(path.read_bytes())
    raw[place.start : place.start + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(raw)
    with refused(path, "expected finite weights, found NaN or infinity in model.layers.1.mlp.up_proj.weight"):
        load(path)


def test_every_cut_is_refused(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "model.gguf"
    for length in (*range(0, 20_000, 211), *range(20_000, len(whole), 50_021), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"not a (whole )?GGUF file"):
            load(path)


def test_broken_headers_never_raise_anything_else(tmp_path: Path, whole: bytes) -> None:
    """Bytes of the header flipped, numbers made large, runs cut out or doubled: it loads, or is refused by name."""
    rng, path, loaded = random.Random(5), tmp_path / "model.gguf", 0
    changes: list[Callable[[bytearray, int], None]] = [
        lambda raw, at: raw.__setitem__(at, raw[at] ^ 1 << rng.randrange(8)),
        lambda raw, at: raw.__setitem__(slice(at, at + 8), struct.pack("<Q", rng.choice((HUGE, 1 << 31, 0, 1 << 63)))),
        lambda raw, at: raw.__delitem__(slice(at, at + rng.randrange(1, 40))),
        lambda raw, at: raw.__setitem__(slice(at, at), raw[at : at + rng.randrange(1, 40)]),
    ]
    for _ in range(200):
        raw = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            rng.choice(changes)(raw, rng.choice((rng.randrange(20_000), rng.randrange(1200))))
        path.write_bytes(raw)
        said = outcome(path)
        assert not said or str(path) in said
        loaded += not said
    assert 0 < loaded < 200


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    """A pipe would wait for a writer, a device would never end."""
    os.mkfifo(pipe := tmp_path / "pipe.gguf")
    for path in (tmp_path / "none.gguf", tmp_path, pipe, Path("/dev/zero")):
        with pytest.raises(CheckpointError, match=f"{path} cannot be read: expected a file"):
            GgufFile.read(path)
        with pytest.raises(CheckpointError, match=r"no checkpoint directory|no config\.json|cannot be read"):
            load(path)


WHOLE: list[tuple[Any, str]] = [
    (" ", "to be a tokenizer.json, found none: JSONDecodeError"),
    ("[" * 100_000, "to be a tokenizer.json, found none: RecursionError"),
    ("[]", "to be a tokenizer.json, found none: TypeError"),
    ('{"model": {"vocab": {"a": 0}}}', "to have the tokens of tokenizer.ggml.tokens, found others"),
    ('{"model": {"vocab": {}}, "added_tokens": [7]}', "to be a tokenizer.json, found none: TypeError"),
    (7, "expected tokenizer.huggingface.json to be str, found 7"),
]


@pytest.mark.parametrize(("text", "said"), WHOLE, ids=lambda value: str(value)[:40])
def test_a_tokenizer_json_inside_that_is_none_is_refused(tmp_path: Path, text: Any, said: str) -> None:
    path = gguf_files.written(tmp_path / "model.gguf", tokenizer__huggingface__json=text)
    with refused(path, said):
        load(path)


def test_a_tokenizer_json_inside_with_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    path = gguf_files.written(tmp_path / "plain.gguf")
    fields = json.loads(Checkpoint(path, "plain").tokenizer().json)
    fields["model"]["merges"] = [["nobody", "knows"]]
    path = gguf_files.written(tmp_path / "model.gguf", tokenizer__huggingface__json=json.dumps(fields))
    with refused(path, "the tokenizer in it cannot be used: "):
        load(path)


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "intermediate_size", "head_dim", "vocab_size"])
@pytest.mark.parametrize("value", [1 << 31, 1 << 62, 1 << 70])
def test_giant_sizes_in_config_json_are_refused_too(tmp_path: Path, key: str, value: int) -> None:
    """The same fault in a directory: a model of that many layers would be made before its tensors are missed."""
    made = gguf_files.oracle()
    made.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    text = path.read_text(encoding="utf-8")
    was = f'"{key}": {getattr(made.config, key)}'
    assert was in text
    path.write_text(text.replace(was, f'"{key}": {value}'), encoding="utf-8")
    with refused(tmp_path, f"{key}={value}, and "):
        load_model(tmp_path, torch.float32, CPU)
