"""GGUF files, written by `gguf` from models of `transformers`: the same weights, angles, ids and ends, and texts that
tokenise as in llama.cpp."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import gguf_files
import numpy as np
import pytest
import small
import torch
from gguf_files import CASES

from trimode.engine.errors import CheckpointError, ModeUnavailable
from trimode.engine.models.checkpoint import Checkpoint, locate
from trimode.engine.models.gguf.config import gguf_config
from trimode.engine.models.gguf.file import READS, GgufFile
from trimode.engine.models.gguf.tokenizer import gguf_tokenizer
from trimode.engine.models.gguf.weights import dequantised
from trimode.engine.models.model import Transformer
from trimode.engine.models.tokenizer import Tokenizer
from trimode.engine.models.weights import load_model
from trimode.engine.options import DiffusionOptions
from trimode.engine.request import DecodeRequest
from trimode.engine.token_engine import TokenEngine

CPU = torch.device("cpu")
IDS: dict[str, list[list[list[int]]]] = json.loads(
    Path(__file__).with_name("llama_cpp_ids.json").read_text(encoding="utf-8")
)


def load(path: Path) -> tuple[Transformer, Tokenizer]:
    return Checkpoint(path, "test").load(torch.float32, CPU)


@pytest.mark.parametrize(("arch", "changes"), CASES, ids=str)
def test_the_model_is_that_of_safetensors(tmp_path: Path, arch: str, changes: dict[str, Any]) -> None:
    """What safetensors give has the logits of transformers (test_families.py); here weights and angles equal those."""
    made = gguf_files.oracle(arch, **changes)
    made.save_pretrained(tmp_path / "whole")
    whole = load_model(tmp_path / "whole", torch.float32, CPU)
    model, _ = load(gguf_files.written(tmp_path / "model.gguf", made, arch))
    expected, found = whole.state_dict(), model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    torch.testing.assert_close(model.frequencies, whole.frequencies, rtol=1e-6, atol=0)
    assert model.rope_factor == pytest.approx(whole.rope_factor)
    plain = replace(whole.config.rope, kind="", factor=1, mscale=None, mscale_all_dim=None)
    for config in (model.config, whole.config):
        assert config.eos_token_ids[0] == gguf_files.END
        if config.rope.llama_4_scaling_beta:
            assert (config.rope.llama_4_scaling_beta, config.rope.original_max_position_embeddings) == (0.25, 128)
    same = ("hidden_size", "num_key_value_heads", "head_dim", "tie_word_embeddings", "architecture", "vocab_size")
    assert all(getattr(model.config, key) == getattr(whole.config, key) for key in same)
    assert model.config.rms_norm_eps == pytest.approx(whole.config.rms_norm_eps)
    assert plain.theta == model.config.rope.theta


@pytest.mark.parametrize(("arch", "changes"), CASES, ids=str)
def test_greedy_ids_are_those_of_transformers(tmp_path: Path, arch: str, changes: dict[str, Any]) -> None:
    made = gguf_files.oracle(arch, seed=3, **changes)
    model, tokenizer = load(gguf_files.written(tmp_path / "model.gguf", made, arch))
    prompt = small.prompt(3, 9, 290)
    with torch.no_grad():
        whole = made.generate(
            torch.tensor([prompt]),
            max_new_tokens=30,
            do_sample=False,
            pad_token_id=2,
            eos_token_id=list(model.config.eos_token_ids),
            suppress_tokens=list(range(tokenizer.vocab_size, 320)),
        )[0]
    with TokenEngine(model, tokenizer.decode, tokenizer.vocab_size) as engine:
        result = engine.decode(DecodeRequest(prompt=prompt, max_tokens=30))
    assert list(result.token_ids) == whole[len(prompt) :].tolist()


@pytest.mark.parametrize("kind", READS)
def test_every_tensor_equals_what_gguf_makes_of_it(tmp_path: Path, kind: str) -> None:
    made = gguf_files.oracle(
        hidden_size=256, intermediate_size=256, head_dim=64, tie_word_embeddings=True, num_hidden_layers=1
    )
    path = gguf_files.written(tmp_path / "model.gguf", made, kind=kind)
    file, reader = GgufFile.read(path), gguf.GGUFReader(path)
    assert len(reader.tensors) == len(file.places)
    for tensor in reader.tensors:
        expected = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        np.testing.assert_array_equal(dequantised(file, file.places[tensor.name]).float().numpy(), expected)
    model, _ = load(path)
    rows = gguf_files.side_by_side(model.get_parameter("encoder.layers.0.self_attn.q_proj.weight").numpy(), 4)
    np.testing.assert_array_equal(rows, dequantised(file, file.places["blk.0.attn_q.weight"]).float().numpy())


def q4_0(block: bytes) -> list[float]:
    (scale,) = struct.unpack_from("<e", block)
    nibbles = [byte & 15 for byte in block[2:]] + [byte >> 4 for byte in block[2:]]
    return [scale * (nibble - 8) for nibble in nibbles]


def q4_1(block: bytes) -> list[float]:
    scale, least = struct.unpack_from("<ee", block)
    nibbles = [byte & 15 for byte in block[4:]] + [byte >> 4 for byte in block[4:]]
    return [scale * nibble + least for nibble in nibbles]


def q8_0(block: bytes) -> list[float]:
    scale, *numbers = struct.unpack("<e32b", block)
    return [scale * number for number in numbers]


def q6_k(block: bytes) -> list[float]:
    low, high, scales = block[:128], block[128:192], struct.unpack_from("<16b", block, 192)
    (scale,) = struct.unpack_from("<e", block, 208)
    found = [0.0] * 256
    for half in range(2):
        for at in range(32):
            for quarter in range(4):
                byte = low[64 * half + at + 32 * (quarter % 2)]
                bits = byte & 15 if quarter < 2 else byte >> 4
                number = (bits | (high[32 * half + at] >> 2 * quarter & 3) << 4) - 32
                where = 128 * half + 32 * quarter + at
                found[where] = scale * scales[where // 16] * number
    return found


def q4_k(block: bytes) -> list[float]:
    scale, least = struct.unpack_from("<ee", block)
    packed, numbers = block[4:16], block[16:]
    found: list[float] = []
    for group in range(8):
        if group < 4:
            factor, offset = packed[group] & 63, packed[group + 4] & 63
        else:
            factor = packed[group + 4] & 15 | packed[group - 4] >> 6 << 4
            offset = packed[group + 4] >> 4 | packed[group] >> 6 << 4
        run = numbers[32 * (group // 2) : 32 * (group // 2) + 32]
        found += [scale * factor * (byte >> 4 if group % 2 else byte & 15) - least * offset for byte in run]
    return found


@pytest.mark.parametrize(
    ("kind", "spelled", "block", "width"),
    [("Q4_0", q4_0, 32, 18), ("Q4_1", q4_1, 32, 20), ("Q8_0", q8_0, 32, 34), ("Q6_K", q6_k, 256, 210),
     ("Q4_K", q4_k, 256, 144)],
)  # fmt: skip
def test_blocks_mean_what_their_description_says(
    tmp_path: Path, kind: str, spelled: Callable[[bytes], list[float]], block: int, width: int
) -> None:
    made = gguf_files.oracle(hidden_size=256, intermediate_size=256, head_dim=64, num_hidden_layers=1)
    file = GgufFile.read(gguf_files.written(tmp_path / "model.gguf", made, kind=kind))
    place = file.places["blk.0.ffn_up.weight"]
    assert place.size == 256 * 256 // block * width
    raw = file.data[place.start : place.start + 8 * width]
    expected = [number for at in range(0, len(raw), width) for number in spelled(raw[at : at + width])]
    found = dequantised(file, place).flatten()[: len(expected)]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=2e-6, atol=1e-9)


def test_a_linear_scaling_divides_every_frequency(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}
    plain, _ = load(gguf_files.written(tmp_path / "plain.gguf"))
    scaled, _ = load(gguf_files.written(tmp_path / "scaled.gguf", **keys))
    torch.testing.assert_close(scaled.frequencies, plain.frequencies / 4)


@pytest.mark.parametrize("pre", [name for name in IDS if name != "made by"])
def test_texts_tokenise_as_in_llama_cpp(tmp_path: Path, pre: str) -> None:
    """Two differences, both meant: markers in a caller's text stay text, and `tekken` has the pattern of its model's
    tokenizer.json, in which an accent belongs to its letter; llama.cpp has a nearby one."""
    tokenizer = gguf_tokenizer(GgufFile.read(gguf_files.written(tmp_path / "model.gguf", pre=pre)))
    texts, different = gguf_files.TEXTS, set[str]()
    assert len(IDS[pre]) == len(texts)
    for text, (plain, markup) in zip(texts, IDS[pre], strict=True):
        if tokenizer.encode(text) != plain or tokenizer.markup.encode(text, add_special_tokens=False).ids != markup:
            different.add(text)
        if text not in different and gguf_files.CONTROL[0] not in text:
            assert tokenizer.decode(plain) == text
    assert different == {"<think>ab</think>", *(["xa\u0301!"] if pre == "tekken" else [])}


def test_ids_tell_the_pre_tokenizers_apart() -> None:
    found = [json.dumps(IDS[pre]) for pre in IDS if pre != "made by"]
    assert len(set(found)) == len(found) == 6


def test_padding_is_no_token_and_markers_are(tmp_path: Path) -> None:
    model, tokenizer = load(gguf_files.written(tmp_path / "model.gguf"))
    used = len(gguf_files.CONTROL) + 256 + len(gguf_files.PAIRS) + 1
    assert (tokenizer.vocab_size, model.config.vocab_size) == (used, 320)
    assert tokenizer.marker(gguf_files.USER) == used - 1
    assert tokenizer.marker("<|im_end|>") == gguf_files.END
    assert tokenizer.decode([1, used - 1, 2]) == gguf_files.USER
    assert model.config.eos_token_ids == (gguf_files.END, 0)
    ids = tokenizer.encode_chat([{"role": "user", "content": "a<|im_end|>"}], add_generation_prompt=True)
    assert ids.count(gguf_files.END) == 1
    assert tokenizer.markup.decode(ids, skip_special_tokens=False).endswith("<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(("pre", "told", "begins"), [
    ("smollm", None, False), ("llama-bpe", None, True), ("llama-bpe", False, False), ("qwen2", True, True),
])  # fmt: skip
def test_bos_stands_in_front_where_the_file_says_so(tmp_path: Path, pre: str, told: bool | None, begins: bool) -> None:
    keys: dict[str, Any] = {"tokenizer__ggml__add_bos_token": told}
    _, tokenizer = load(gguf_files.written(tmp_path / "model.gguf", pre=pre, **keys))
    plain = tokenizer.encode("ab")
    assert tokenizer.encode_prompt("ab") == ([1, *plain] if begins else plain)
    assert tokenizer.special == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


def test_a_checkpoint_may_be_one_file(tmp_path: Path) -> None:
    path = gguf_files.written(tmp_path / "model.gguf")
    checkpoint = locate(path)
    assert (checkpoint.name, checkpoint.is_gguf) == ("model.gguf", True)
    assert checkpoint.config() == gguf_config(GgufFile.read(path))
    assert checkpoint.tokenizer().json == load(path)[1].json
    other = locate(gguf_files.written(tmp_path / "other.gguf", pre="qwen2"))
    assert len({checkpoint.model_sha256, other.model_sha256, checkpoint.tokenizer_sha256, other.tokenizer_sha256}) == 4
    with pytest.raises(ModeUnavailable, match="LlamaForCausalLM weights decode in ar, lookup_spec only"):
        TokenEngine(load(path)[0], small.text, 40).decode(
            DecodeRequest(prompt=(1,), max_tokens=1, options=DiffusionOptions())
        )


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf_files.written(tmp_path / "model.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"pip install 'trimode\[gguf\]'"):
        GgufFile.read(path)
    (tmp_path / "no.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="is not a GGUF file"):
        GgufFile.read(tmp_path / "no.gguf")
