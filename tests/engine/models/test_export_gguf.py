"""`export --format gguf`: the file that llama.cpp's converter would write, which our own reader and `gguf` agree on.

`gguf_files` spells llama.cpp's names, orders and factors out a second time; tests/peers asks llama.cpp itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import gguf_files
import numpy as np
import pytest
import torch
from gguf_files import CASES, LLAMA3, YARN

from trimode.engine.errors import CheckpointError, RequestError
from trimode.engine.models.checkpoint import Checkpoint
from trimode.engine.models.export import export
from trimode.engine.models.gguf.file import GgufFile
from trimode.engine.models.gguf.pre_tokenizers import HUGGING_FACE
from trimode.engine.models.gguf.tokenizer import gguf_tokenizer
from trimode.engine.models.gguf.writer import TYPES
from trimode.engine.models.tokenizer import Tokenizer
from trimode.engine.models.weights import load_model
from trimode.policy.calls.engine import Engine

CPU = torch.device("cpu")


def directory(path: Path, made: Any, arch: str = "llama", pre: str = "smollm") -> Path:
    """`made` as a directory of Hugging Face's, with the tokenizer that a GGUF file of it would have."""
    made.save_pretrained(path)
    (path / "generation_config.json").unlink(missing_ok=True)
    tokenizer = gguf_tokenizer(GgufFile.read(gguf_files.written(path / "source.gguf", made, arch, pre=pre)))
    (path / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
    (path / "chat_template.jinja").write_text(gguf_files.TEMPLATE, encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|im_start|>"}), encoding="utf-8")
    return path


def changed(path: Path, change: Callable[[dict[str, Any]], None], name: str = "tokenizer.json") -> Path:
    """The directory with other fields in one of its files."""
    fields = json.loads((path / name).read_text(encoding="utf-8"))
    change(fields)
    (path / name).write_text(json.dumps(fields), encoding="utf-8")
    return path


@pytest.mark.parametrize(("arch", "changes"), CASES, ids=str)
def test_a_directory_comes_back_as_it_was(tmp_path: Path, arch: str, changes: dict[str, Any]) -> None:
    made = gguf_files.oracle(arch, **changes)
    source, out = directory(tmp_path / "whole", made, arch), tmp_path / "model.gguf"
    assert [sentence.split(":")[0] for sentence in export(source, out, "gguf")] == ["ends"]
    whole = load_model(source, torch.float32, CPU)
    model, tokenizer = Checkpoint(out, "test").load(torch.float32, CPU)
    expected, found = whole.state_dict(), model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    torch.testing.assert_close(model.frequencies, whole.frequencies, rtol=1e-6, atol=0)
    assert model.rope_factor == pytest.approx(whole.rope_factor)
    assert model.config.eos_token_ids[0] == whole.config.eos_token_ids[0]
    before = Tokenizer.load(source)
    for text in gguf_files.TEXTS:
        assert tokenizer.encode(text) == before.encode(text)
        assert tokenizer.encode_markup(text) == before.encode_markup(text)
    assert tokenizer.special["bos_token"] == "<|im_start|>"
    assert tokenizer.template.source == gguf_files.TEMPLATE


@pytest.mark.parametrize(("arch", "changes"), CASES, ids=str)
def test_tensors_and_keys_are_those_of_the_converter(tmp_path: Path, arch: str, changes: dict[str, Any]) -> None:
    made = gguf_files.oracle(arch, **changes)
    export(directory(tmp_path / "whole", made, arch), tmp_path / "model.gguf", "gguf")
    ours = gguf.GGUFReader(tmp_path / "model.gguf")
    tensors = gguf_files.tensors(made, arch)
    assert {tensor.name for tensor in ours.tensors} == tensors.keys()
    for tensor in ours.tensors:
        found = tensor.data.reshape(tensor.shape[::-1])
        if tensor.name == "rope_freqs.weight":
            np.testing.assert_allclose(found, tensors[tensor.name], rtol=1e-6)
        else:
            np.testing.assert_array_equal(found, tensors[tensor.name])
    keys = {key: field.contents() for key, field in ours.fields.items()}
    expected = gguf_files.metadata(made, arch, "smollm")
    for key, value in expected.items():
        assert keys[key] == (pytest.approx(value) if isinstance(value, float) else value), key


@pytest.mark.parametrize("kind", TYPES)
def test_types_are_what_gguf_makes_of_the_weights(tmp_path: Path, kind: str) -> None:
    made = gguf_files.oracle(tie_word_embeddings=True)
    source = directory(tmp_path / "whole", made)
    missing = export(source, tmp_path / "model.gguf", "gguf", kind)
    reader, tensors = gguf.GGUFReader(tmp_path / "model.gguf"), gguf_files.tensors(made, "llama")
    for tensor in reader.tensors:
        meant = gguf.GGMLQuantizationType[kind.upper() if len(tensor.shape) == 2 else "F32"]
        assert tensor.tensor_type == meant
        expected = gguf.quantize(tensors[tensor.name].astype(np.float32), meant)
        np.testing.assert_array_equal(tensor.data.view(np.uint8).ravel(), expected.view(np.uint8).ravel())
    assert any(f"matrices were f32, and are {kind} in the file" in sentence for sentence in missing) == (kind != "f32")
    Checkpoint(tmp_path / "model.gguf", "test").load(torch.float32, CPU)


def test_a_file_is_written_anew_as_another_type(tmp_path: Path) -> None:
    path = gguf_files.written(tmp_path / "q.gguf", kind="Q4_1", pre="qwen2")
    assert export(path, tmp_path / "f32.gguf", "gguf", "f32") == []
    before, after = (Checkpoint(one, "test").load(torch.float32, CPU) for one in (path, tmp_path / "f32.gguf"))
    assert all(torch.equal(tensor, after[0].state_dict()[name]) for name, tensor in before[0].state_dict().items())
    assert before[0].config == after[0].config
    assert before[1].json == after[1].json
    assert before[1].special == after[1].special


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "tekken"])
def test_pre_tokenizers_keep_their_ids(tmp_path: Path, pre: str) -> None:
    source = directory(tmp_path / "whole", gguf_files.oracle(), pre=pre)
    export(source, tmp_path / "model.gguf", "gguf")
    file = GgufFile.read(tmp_path / "model.gguf")
    assert HUGGING_FACE not in file.metadata
    before, after = Tokenizer.load(source), gguf_tokenizer(file)
    for text in gguf_files.TEXTS:
        assert after.encode(text) == before.encode(text)
        assert after.encode_prompt(text) == before.encode_prompt(text)


def test_digits_by_their_own_pre_tokenizer_are_smollm(tmp_path: Path) -> None:
    def digits(fields: dict[str, Any]) -> None:
        fields["pre_tokenizer"]["pretokenizers"][0] = {"type": "Digits", "individual_digits": True}

    source = changed(directory(tmp_path / "whole", gguf_files.oracle()), digits)
    export(source, tmp_path / "model.gguf", "gguf")
    assert GgufFile.read(tmp_path / "model.gguf").metadata["tokenizer.ggml.pre"] == "smollm"


def test_what_llama_cpp_cannot_say_of_a_tokenizer_is_said_and_kept(tmp_path: Path) -> None:
    def odd(fields: dict[str, Any]) -> None:
        fields["normalizer"] = {"type": "NFC"}
        fields["added_tokens"][0]["lstrip"] = True

    source = changed(directory(tmp_path / "whole", gguf_files.oracle()), odd)
    missing = export(source, tmp_path / "model.gguf", "gguf")
    assert [sentence.split(":")[0] for sentence in missing] == [
        "normalizer NFC", "flags of 1 added tokens ('<|endoftext|>', ...)", "ends",
    ]  # fmt: skip
    after = gguf_tokenizer(GgufFile.read(tmp_path / "model.gguf"))
    assert after.encode("e\u0301") == Tokenizer.load(source).encode("e\u0301") == after.encode("é")


def test_the_bundled_checkpoint_decodes_the_same_from_its_file(tmp_path: Path, reference: Engine) -> None:
    missing = export(reference.checkpoint.directory, tmp_path / "model.gguf", "gguf")
    assert [sentence.split()[0] for sentence in missing] == ["draft", "mask", "block", "pre-tokenizer:", "ends:"]
    engine = Engine.load(tmp_path / "model.gguf")
    for text in ("'tis 'till\n'stuff'", "I want to book a table for two at seven.", '{"name":'):
        assert engine.tokenizer.encode(text) == reference.tokenizer.encode(text)
        messages = [{"role": "user", "content": text}]
        found, expected = (one.generate(messages=messages, mode="ar", max_tokens=24) for one in (engine, reference))
        assert (found.prompt_ids, found.token_ids) == (expected.prompt_ids, expected.token_ids)
    places = (reference.checkpoint.directory, tmp_path / "model.gguf")
    # These kernels keep every weight in memory, where it can be compared.
    whole, model = (Engine.load(place, kernels="torch").tokens.model.state_dict() for place in places)
    assert all(torch.equal(whole[name], model[name]) for name in model)
    engine.close()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}, "_arch": "llama"}, ""),
    ({"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.5}}, r"rope attention factor \(mscale\)"),
    ({"rope_parameters": {**YARN, "attention_factor": 1.5}}, r"rope attention factor \(mscale\)"),
    ({"rope_parameters": LLAMA3, "_arch": "qwen3"}, "factors of rope frequencies for Llama models, not for qwen3"),
    ({"rope_parameters": {**YARN, "llama_4_scaling_beta": 0.1}}, "written for Ministral 3 alone, not for llama"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED, ids=str)
def test_rope_that_the_format_cannot_say_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    changes = dict(changes)
    arch, rope = changes.pop("_arch", "llama"), changes["rope_parameters"]
    source = directory(tmp_path / "whole", gguf_files.oracle(arch), arch)
    changed(source, lambda fields: fields.update(rope_parameters=rope), "config.json")
    out = tmp_path / "model.gguf"
    if not said:
        assert len(export(source, out, "gguf")) == 1
        return
    with pytest.raises(CheckpointError, match=said):
        export(source, out, "gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"], "no file, and no part of one"


def test_models_and_vocabularies_without_a_name_are_refused(tmp_path: Path) -> None:
    out, made = tmp_path / "model.gguf", gguf_files.oracle()

    def said(message: str, kind: str | None = None, **change: Callable[[dict[str, Any]], None]) -> None:
        source = directory(tmp_path / f"whole{len(list(tmp_path.iterdir()))}", made)
        for name, each in change.items():
            changed(source, each, f"{name}.json")
        with pytest.raises(CheckpointError, match=message):
            export(source, out, "gguf", kind)
        assert not out.exists()

    def group(fields: dict[str, Any]) -> None:
        fields.update(architectures=["K2HorizonForCausalLM"], layernorm_num_groups=2)

    def cut(fields: dict[str, Any]) -> None:
        fields["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": "[aeiou]"}

    def unigram(fields: dict[str, Any]) -> None:
        fields["model"] = {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}

    def ending(fields: dict[str, Any]) -> None:
        piece, end = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}
        token = {"id": "<|im_end|>", "ids": [2], "tokens": ["<|im_end|>"]}
        fields["post_processor"] = {
            "type": "TemplateProcessing", "single": [piece, end], "pair": [piece, piece, end],
            "special_tokens": {"<|im_end|>": token},
        }  # fmt: skip

    said("found K2HorizonForCausalLM, for which llama.cpp has no architecture", config=group)
    said(r"llama.cpp has no pre-tokenizer like .*\[aeiou\].* export the weights as ministral3", tokenizer=cut)
    said("expected byte-level BPE, .* found 'Unigram'", tokenizer=unigram)
    said(r"can say one token in front alone", tokenizer=ending)
    with torch.no_grad():
        made.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    said("numbers of blk.0.ffn_up.weight are not finite as f16", "f16")


def test_rows_that_are_no_whole_blocks_are_refused(tmp_path: Path) -> None:
    source = directory(tmp_path / "whole", gguf_files.oracle(intermediate_size=100))
    with pytest.raises(CheckpointError, match=r"rows of blk.0.ffn_down.weight have 100 numbers, no multiple of q8_0's"):
        export(source, tmp_path / "model.gguf", "gguf", "q8_0")


def test_where_and_what_to_write_is_checked_first(tmp_path: Path, folder: Path) -> None:
    there = tmp_path / "there.gguf"
    there.write_text("mine")
    file = gguf_files.written(tmp_path / "q.gguf")
    for source, out, kind, message in (
        (folder, there, None, "new file that ends in .gguf, found .*there.gguf"),
        (folder, tmp_path / "model", None, "ends in .gguf"),
        (folder, tmp_path / "no" / "model.gguf", None, "there is no directory .*no"),
        (folder, tmp_path / "model.gguf", "q2_k", "type 'q2_k': expected one of f32, f16, bf16, q8_0, q4_0, q4_1"),
        (file, tmp_path / "model.gguf", None, "is a GGUF file already; name the type to write"),
    ):
        with pytest.raises(RequestError, match=message):
            export(source, out, "gguf", kind)
    with pytest.raises(RequestError, match="ministral3 keeps the weights' dtype; leave the type out"):
        export(folder, tmp_path / "out", stored="f32")
    with pytest.raises(CheckpointError, match="no checkpoint directory or GGUF file at"):
        export(tmp_path / "nowhere", tmp_path / "model.gguf", "gguf")
    assert there.read_text() == "mine"
