"""`Engine.load(base, adapter=...)`: any base drafts, writes what it writes without; another base is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from naive import Naive
from peft_adapters import HOW, write_adapter, write_base

import trimode as tm
from trimode.engine.drafting import Drafting, Noise
from trimode.engine.errors import CheckpointError, ModeUnavailable, RequestError
from trimode.engine.models.adapter_drafting import drafting_fields
from trimode.engine.models.checkpoint import locate
from trimode.engine.options import LinearSpecOptions, QuadraticSpecOptions
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.result import Mode
from trimode.policy.audit import read_audit, records, verify
from trimode.policy.calls.engine import Engine
from trimode.policy.replay import Engines, replay

HELLO = [{"role": "user", "content": "How long?"}]
LENGTH = {
    "type": "object",
    "properties": {"low": {"type": "integer", "minimum": 0, "maximum": 99}, "unit": {"enum": ["cm", "m"]}},
    "required": ["low", "unit"],
    "additionalProperties": False,
}
FAMILIES = ["Llama", "Qwen3", "Ministral3", "Mistral"]
DRAFTS: tuple[Mode, ...] = ("linear_spec", "quadratic_spec")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_drafts_and_writes_what_it_writes_without(tmp_path: Path, family: str) -> None:
    base = write_base(tmp_path / "base", family)
    write_adapter(tmp_path / "adapter", base)
    with Engine.load(tmp_path / "base") as bare, Engine.load(tmp_path / "base", adapter=tmp_path / "adapter") as engine:
        assert bare.weights.modes == ("ar", "lookup_spec")
        assert engine.weights.modes == ("ar", *DRAFTS, "lookup_spec")
        for temperature in (0.0, 0.7, 1.0):
            for schema in (None, LENGTH):
                given: dict[str, Any] = {"messages": HELLO, "schema": schema, "max_tokens": 40}
                given |= {"temperature": temperature, "seed": 3}
                ar = bare.generate(mode="ar", **given)
                for mode in engine.weights.modes:
                    found = engine.generate(mode=mode, **given)
                    assert found.token_ids == ar.token_ids
                    assert found.stats.forward_passes <= ar.stats.forward_passes
        with pytest.raises(ModeUnavailable):
            engine.generate(messages=HELLO, mode="diffusion", exact=False)


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_drafts_are_those_of_the_base_with_the_adapter_in_its_matrices(tmp_path: Path, family: str) -> None:
    """The twin is cache-free, and its weights are those that `transformers` would merge."""
    base = write_base(tmp_path / "base", family)
    write_adapter(tmp_path / "adapter", base, targets=("q_proj", "v_proj", "down_proj"), alpha=4, use_rslora=True)
    with Engine.load(tmp_path / "base", adapter=tmp_path / "adapter") as engine:
        model, _ = locate(tmp_path / "base", tmp_path / "adapter").load(torch.float32, torch.device("cpu"))
        for options in (LinearSpecOptions(), QuadraticSpecOptions(block_length=5)):
            request = DecodeRequest(
                prompt=(5, 6, 7, 8), options=options, sampling=Sampling(temperature=0.8, seed=2), max_tokens=30
            )
            twin = Naive(model, request.prompt, request.sampling, 30, engine.tokenizer.vocab_size, ())
            twin.ends = model.config.eos_token_ids
            length = engine.tokens.check(request).options.block_length  # type: ignore[union-attr]
            (twin.exact_first if isinstance(options, LinearSpecOptions) else twin.quadratic_spec)(length or 0)
            result = engine.tokens.decode(request)
            assert list(result.token_ids) == twin.out
            assert result.stats.forward_passes == twin.passes
    term = model.adapter_terms(0)["q_proj"]
    assert term.scale == pytest.approx(4 / 2)
    merged = base.model.layers[0].self_attn.q_proj.weight + term.scale * term.lora_B.weight @ term.lora_A.weight
    x = torch.randn(3, 24)
    ours = model.encoder.layers[0].get_submodule("self_attn.q_proj")(x) + term(x)
    torch.testing.assert_close(ours, x @ merged.T, rtol=1e-4, atol=1e-4)


def test_a_gguf_base_takes_the_same_adapter(tmp_path: Path) -> None:
    import gguf_files

    base = gguf_files.oracle("llama", tie_word_embeddings=False)
    path = gguf_files.written(tmp_path / "base.gguf", base, "llama")
    write_adapter(tmp_path / "adapter", base)
    with Engine.load(path) as bare, Engine.load(path, adapter=tmp_path / "adapter") as engine:
        for mode in DRAFTS:
            found = engine.generate("ab", mode=mode, max_tokens=30)
            assert found.token_ids == bare.generate("ab", mode="ar", max_tokens=30).token_ids
            assert found.stats.drafted


def test_records_name_the_adapter_and_a_replay_tells_another_one(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    write_adapter(tmp_path / "one", base)
    write_adapter(tmp_path / "other", base, HOW | {"noise": {"ids": [7, 9]}})
    trail = tmp_path / "audit.jsonl"
    with Engine.load(tmp_path / "base", adapter=tmp_path / "one") as engine:
        with (
            tm.session(engine, policy=tm.Policy(), trace=f"file:{trail}", content=True),
            tm.using(mode="linear_spec", seed=4),
        ):
            engine.generate(messages=HELLO, max_tokens=30, temperature=0.9)
        (record,) = records(read_audit(trail))
        assert not verify(trail)
        assert (record.runtime.adapter, len(record.runtime.adapter_sha256)) == ("one", 64)
        assert record.options == {"mode": "linear_spec", "block_length": 8, "exact_first": True}
        assert replay(record, engine).outcome == "same"
    again = Engines(str(tmp_path / "base"), adapter=str(tmp_path / "other")).of(record.runtime)
    found = replay(record, again)
    assert found.outcome != "same"
    assert any(cause.startswith("draft adapter: ") for cause in found.causes)
    again.close()


def test_blocks_are_filled_where_the_adapter_was_trained_for_it(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    fills = {"noise": {"mask_token_id": 257}, "attention": "block", "predicts": "own", "fills_blocks": True}
    write_adapter(tmp_path / "adapter", base, HOW | fills)
    with Engine.load(tmp_path / "base", adapter=tmp_path / "adapter") as engine:
        assert engine.weights.modes == ("ar", "diffusion", *DRAFTS, "lookup_spec")
        found = engine.generate(messages=HELLO, schema=LENGTH, mode="diffusion", exact=False, max_tokens=60)
        assert found.valid
        with pytest.raises(RequestError, match="the draft adapter fills slots after that token"):
            engine.infill("a", "b")


@pytest.mark.parametrize("alpha", [2048, 8192.0])
def test_the_published_layout_of_uno_is_recognised(tmp_path: Path, alpha: float) -> None:
    base = write_base(tmp_path / "base", "Qwen3")
    write_adapter(tmp_path / "adapter", base, None, rank=128, alpha=alpha)
    with Engine.load(tmp_path / "base", adapter=tmp_path / "adapter") as engine:
        mask = engine.tokenizer.encode_markup("<|MASK|>")[0]
        assert engine.tokens.model.config.drafting == Drafting(
            noise=Noise(first=1, last=mask - 1),
            causal=True,
            ahead=True,
            exact_first=True,
            seed_in_draft=False,
            longest=16,
        )
        assert engine.tokens.model.adapter_terms(1)["down_proj"].scale == alpha / 128
        ar = engine.generate(messages=HELLO, mode="ar", max_tokens=20).token_ids
        assert engine.generate(messages=HELLO, mode="linear_spec", max_tokens=20).token_ids == ar


def test_what_is_written_of_a_drafting_is_what_is_read(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    for drafting in (
        Drafting(noise=Noise.mask(7), longest=8),
        Drafting(noise=Noise(first=1, last=99), causal=True, ahead=True, exact_first=True, seed_in_draft=False),
        Drafting(noise=Noise.mask(9), exact_first=True, seed_in_draft=False, fills=True, longest=16),
    ):
        origin = {"architecture": "LlamaForCausalLM", "weights_sha256": locate(tmp_path / "base").weights_sha256}
        write_adapter(tmp_path / "adapter", base, drafting_fields(drafting, origin))
        with Engine.load(tmp_path / "base", adapter=tmp_path / "adapter") as engine:
            assert engine.tokens.model.config.drafting == drafting


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"base": {"name": "x/y", "architecture": "Qwen3ForCausalLM"}},
        "made for x/y .Qwen3ForCausalLM., and base is",
    ),
    (
        {"base": {"name": "x/y", "weights_sha256": "00"}},
        "made for x/y, whose weights have the digest 00; those of",
    ),
    ({"base": {"weights_sha256": ["00", "11"]}}, "made for another model, whose weights have the digest 00, 11"),
    ({"base": ["x/y"]}, "expected base to be an object"),
    ({"format": 2}, "expected format 1, found 2"),
    ({"noise": "mask"}, "expected noise to be"),
    ({"noise": {"mask_token_id": 10**6}}, "with ids below vocab_size=263"),
    ({"noise": {"ids": [9, 1]}}, r"found \{'ids': \[9, 1\]\}"),
    ({"noise": {"ids": [True, 4]}}, "expected noise to be"),
    ({"attention": "full"}, "expected attention to be 'block' or 'causal', found 'full'"),
    ({"predicts": 1}, "expected predicts to be 'own' or 'next', found 1"),
    ({"exact_first": "yes"}, "expected exact_first to be true or false, found 'yes'"),
    ({"block_lengths": [8, 4]}, r"expected block_lengths to be \[SHORTEST, LONGEST\]"),
    ({"fills_blocks": True}, "fills_blocks is true, which needs noise of one mask_token_id"),
    ({"temperature": 1}, "'temperature' is not known here"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_the_json_says_is_known_or_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    base = write_base(tmp_path / "base")
    write_adapter(tmp_path / "adapter", base, HOW | changes)
    with pytest.raises(CheckpointError, match=message):
        Engine.load(tmp_path / "base", adapter=tmp_path / "adapter")


def test_another_base_and_other_adapters_are_refused_by_name(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    larger = write_base(tmp_path / "larger", hidden_size=32)
    deeper = write_base(tmp_path / "deeper", num_hidden_layers=3)
    for other, message in (
        (larger, r"lora_A\.weight: expected shape \[4, 24\], found \[4, 32\]"),
        (deeper, "unexpected:"),
    ):
        write_adapter(tmp_path / "wrong", other)
        with pytest.raises(CheckpointError, match=message):
            Engine.load(tmp_path / "base", adapter=tmp_path / "wrong")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"use_dora": True}, "use_dora False, found True"),
        ({"bias": "all"}, "bias 'none', found 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save None"),
        ({"some_idea": 1}, "some_idea=1 is not known here"),
        ({"how": None}, "has no trimode_adapter.json, which says how the adapter drafts, and is no adapter of UNO"),
    ]
    for changes, message in refused:
        made = dict(changes)
        how = made.pop("how", HOW)
        (tmp_path / "adapter" / "trimode_adapter.json").unlink(missing_ok=True)
        write_adapter(tmp_path / "adapter", base, how, **made)
        with pytest.raises(CheckpointError, match=message):
            Engine.load(tmp_path / "base", adapter=tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="no directory there"):
        Engine.load(tmp_path / "base", adapter=tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="adapter=3: expected a directory"):
        Engine.load(tmp_path / "base", adapter=3)  # type: ignore[arg-type]


def test_an_adapter_of_uno_needs_a_mask_token_to_end_its_ids(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    write_adapter(tmp_path / "adapter", base, None, rank=128, alpha=2048)
    tokenizer = tmp_path / "base" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8").replace("<|MASK|>", "<|OTHER|>"), encoding="utf-8")
    with pytest.raises(CheckpointError, match="ids end before the mask token, and the files of base name none"):
        Engine.load(tmp_path / "base", adapter=tmp_path / "adapter")


def test_an_adapter_beside_the_weights_may_say_how_it_drafts(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    write_adapter(tmp_path / "base" / "linear_spec_lora", base)
    with Engine.load(tmp_path / "base") as engine:
        assert engine.weights.modes == ("ar", *DRAFTS, "lookup_spec")
        assert engine.runtime.adapter == ""


def test_the_bundled_checkpoint_takes_another_adapter_too(tmp_path: Path) -> None:
    """With no JSON its own way to draft stays."""
    own = locate(None).directory / "linear_spec_lora"
    with Engine.load() as bundled, Engine.load(adapter=own) as engine:
        assert engine.runtime.adapter == "linear_spec_lora"
        assert engine.tokens.model.config == bundled.tokens.model.config
        (tmp_path / "copy").mkdir()
        for path in own.iterdir():
            (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
        how = drafting_fields(replace(bundled.tokens.model.config.drafting, longest=8))
        (tmp_path / "copy" / "trimode_adapter.json").write_text(json.dumps(how))
        found = Engine.load(adapter=tmp_path / "copy").generate("a", mode="linear_spec", max_tokens=12)
        assert found.token_ids == bundled.generate("a", mode="ar", max_tokens=12).token_ids
