"""SDAR: blocks counted from position 0, causal between them and bidirectional inside, without a causal first token.

Logits are compared with `transformers`' Qwen3 on the same weights, with an explicit mask; decoding with a naive decoder
without cache; reuse and batching with a fresh engine of one request. Models are random and small.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from automaton import Automaton, accepts, random_automaton
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import Naive, prefix
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from trimode.engine.constraint import Thinking
from trimode.engine.decoding.segment import Branch, Segment
from trimode.engine.decoding.state import PREFILL_CHUNK, CacheState
from trimode.engine.drafting import Drafting, Noise
from trimode.engine.errors import CheckpointError, ModeUnavailable, RequestError
from trimode.engine.forward.batch import Batch
from trimode.engine.forward.runner import Runner
from trimode.engine.kv_cache.pages import PAGE, PagePool, pages_for
from trimode.engine.kv_cache.prefix import PrefixIndex
from trimode.engine.models.config import ModelConfig
from trimode.engine.models.model import Transformer
from trimode.engine.models.weights import load_model
from trimode.engine.options import (
    SELECTIONS,
    AlignedOptions,
    ArOptions,
    DiffusionOptions,
    InfillOptions,
    LinearSpecOptions,
    Options,
    QuadraticSpecOptions,
    Selection,
)
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.result import DecodeResult
from trimode.engine.scoring import ScoreRequest
from trimode.engine.token_engine import TokenEngine
from trimode.kernels import ops
from trimode.kernels.native.build import NativeUnavailable
from trimode.kernels.native.native_ops import Native

EXAMPLES = settings(deadline=None, derandomize=True, max_examples=40)
CPU, VOCAB, MASK, LENGTH = torch.device("cpu"), 61, 7, 90
SDAR = replace(small.CONFIG, architecture="SDARForCausalLM", block_size=4)
ENDLESS = replace(SDAR, eos_token_ids=(small.MASK,))  # the mask token is never chosen
USABLE = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]


def reference_model(seed: int = 0, **changes: Any) -> Any:
    """A random Qwen3, norms included: fresh ones are all ones and would hide a missing one."""
    configure: Any = Qwen3Config
    build: Any = Qwen3ForCausalLM
    geometry = {
        "vocab_size": VOCAB,
        "hidden_size": 24,
        "intermediate_size": 36,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = build(configure(**{**geometry, **changes}, attn_implementation="eager"))
        with torch.no_grad():
            for name, weight in made.named_parameters():
                if "norm" in name:
                    weight.add_(0.3 * torch.randn_like(weight))
    return made.eval()


def saved(directory: Path, seed: int = 0, fields: dict[str, Any] | None = None, **changes: Any) -> Any:
    """The same weights as an SDAR checkpoint: published ones differ from Qwen3's in config.json alone."""
    made = reference_model(seed, **changes)
    made.save_pretrained(directory)
    edit_json(directory / "config.json", architectures=["SDARForCausalLM"], model_type="sdar", mask_token_id=MASK)
    edit_json(directory / "config.json", **(fields or {}))
    return made


def edit_json(path: Path, **changes: Any) -> None:
    """Sets keys of a JSON file; a value of `...` takes the key out."""
    fields = (json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}), encoding="utf-8")


def load(directory: Path) -> Transformer:
    return load_model(directory, torch.float32, CPU)


@torch.no_grad()
def reference_logits(made: Any, tokens: Sequence[int], block: int, last: int = 0) -> Tensor:
    """[T, V], or `last` rows of it, under a mask that is causal between aligned blocks.

    A row of an unfinished last block sees what there is of it.
    """
    number = torch.arange(len(tokens)) // block
    mask = torch.zeros(1, 1, len(tokens), len(tokens)).masked_fill(number[None] > number[:, None], float("-inf"))
    found: Tensor = made(input_ids=torch.tensor([list(tokens)]), attention_mask=mask).logits[0]
    return found[-last:]


class Paged:
    """A runner with its pages: segments in, logits out."""

    def __init__(self, model: Transformer, kernels: str = "auto") -> None:
        self.pool = PagePool(model.config, 1 << 22, torch.float32, CPU)
        self.runner = Runner(model, *ops.kernels(CPU, torch.float32, kernels))

    def table(self) -> list[int]:
        return self.pool.take(pages_for(LENGTH + 2 * PAGE))

    def run(self, segments: Sequence[Segment], tables: Sequence[list[int]]) -> list[Tensor]:
        with torch.inference_mode():
            return [rows for rows, _ in Batch(segments, tables).forward(self.runner, self.pool)]

    def feed(self, tokens: Sequence[int], table: list[int], block: int, cuts: Sequence[int] = ()) -> Tensor:
        """Logits [T, V] of `tokens`, written up to each cut in turn."""
        parts = pairwise([0, *cuts, len(tokens)])
        return torch.cat([self.run([trunk(tokens[a:b], a, block)], [table])[0] for a, b in parts])


def trunk(tokens: Sequence[int], start: int, block: int) -> Segment:
    return Segment(start=start, trunk=tuple(tokens), read=len(tokens), block=block)


def available(kernels: str) -> str:
    if kernels == "native":
        try:
            Native.load()
        except NativeUnavailable as error:
            pytest.skip(str(error))
    return kernels


GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"head_dim": 10, "tie_word_embeddings": True, "num_key_value_heads": 1},
    {"head_dim": 32, "num_key_value_heads": 4},
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=repr)
@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_blocks_of_one_give_the_causal_logits_of_qwen3(tmp_path: Path, geometry: dict[str, Any], kernels: str) -> None:
    made = saved(tmp_path, fields={"block_size": 1}, **geometry)
    model, tokens = load(tmp_path), small.prompt(1, LENGTH, VOCAB)
    assert model.config.aligned_block == 1
    with torch.no_grad():
        expected = made(input_ids=torch.tensor([tokens])).logits[0]
    assert expected.std() > 0.5
    paged = Paged(model, available(kernels))
    for cuts in ([], [1, 33, 64, 65]):
        found = paged.feed(tokens, paged.table(), 1, cuts)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=repr)
@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize(("block", "cuts"), [(4, []), (4, [4, 32, 64, 68]), (3, [63, 66]), (32, [32]), (100, [])])
def test_block_causal_logits_are_those_of_qwen3_under_that_mask(
    tmp_path: Path, geometry: dict[str, Any], kernels: str, block: int, cuts: list[int]
) -> None:
    made, tokens = saved(tmp_path, **geometry), small.prompt(2, LENGTH, VOCAB)
    expected = reference_logits(made, tokens, block)
    assert (expected - reference_logits(made, tokens, 1)).abs().max() > 0.1
    paged = Paged(load(tmp_path), available(kernels))
    found = paged.feed(tokens, paged.table(), block, cuts)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_one_pass_over_mixed_segments_gives_each_what_it_gets_alone(tmp_path: Path, kernels: str) -> None:
    made = saved(tmp_path)
    paged = Paged(load(tmp_path), available(kernels))
    plan = [(0, 40, 4), (64, 4, 4), (0, 9, 1), (32, 30, 8), (8, 4, 4), (60, 8, 4), (16, 16, 16)]
    texts = [small.prompt(10 + at, start + size, VOCAB) for at, (start, size, _) in enumerate(plan)]
    tables = [paged.table() for _ in plan]
    for text, table, (start, _, block) in zip(texts, tables, plan, strict=True):
        if start:
            paged.feed(text[:start], table, block)
    segments = [trunk(text[start:], start, block) for text, (start, _, block) in zip(texts, plan, strict=True)]
    masks = Segment(start=8, branches=(Branch(tokens=(MASK,) * 4, read=4),))
    together = paged.run([*segments, masks], [*tables, tables[4]])
    for found, segment, text, table in zip(together[:-1], segments, texts, tables, strict=True):
        expected = reference_logits(made, text, segment.block)[segment.start :]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        assert torch.equal(paged.run([segment], [table])[0], found)
    expected = reference_logits(made, (*texts[4][:8], *(MASK,) * 4), 4, last=4)
    torch.testing.assert_close(together[-1], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_chunks_that_end_on_borders_are_bitwise_one_pass(tmp_path: Path, kernels: str) -> None:
    saved(tmp_path)
    paged, tokens = Paged(load(tmp_path), available(kernels)), small.prompt(3, 88, VOCAB)
    whole = paged.feed(tokens, paged.table(), 4)
    assert torch.equal(whole, paged.feed(tokens, paged.table(), 4, range(4, 88, 4)))


def test_what_config_leaves_out_has_the_familys_meaning(tmp_path: Path) -> None:
    saved(tmp_path)
    config = ModelConfig.load(tmp_path)
    assert (config.block_size, config.mask_token_id, config.eos_token_ids) == (4, MASK, (2,))
    edit_json(tmp_path / "config.json", block_size=None)
    assert ModelConfig.load(tmp_path).block_size == 4
    edit_json(tmp_path / "config.json", block_size=16)
    edit_json(tmp_path / "generation_config.json", eos_token_id=[2, 9])
    config = ModelConfig.load(tmp_path)
    assert (config.block_size, config.aligned_block, config.eos_token_ids) == (16, 16, (2, 9))


@pytest.mark.parametrize("named", ["<|MASK|>", {"content": "<|MASK|>", "special": True}], ids=["text", "object"])
@pytest.mark.parametrize("gone", [..., None], ids=["absent", "null"])
def test_the_tokenizer_names_the_mask_token_where_config_does_not(tmp_path: Path, named: Any, gone: Any) -> None:
    saved(tmp_path, fields={"mask_token_id": gone})
    added = [{"id": 59, "content": "<|im_end|>"}, {"id": 60, "content": "<|MASK|>"}]
    edit_json(tmp_path / "tokenizer.json", added_tokens=added)
    edit_json(tmp_path / "tokenizer_config.json", mask_token=named)
    assert load(tmp_path).config.mask_token_id == 60
    edit_json(tmp_path / "config.json", mask_token_id=11)
    assert load(tmp_path).config.mask_token_id == 11


@pytest.mark.parametrize(
    ("settings_of", "added", "found"),
    [
        ({}, [{"id": 60, "content": "<|MASK|>"}], "mask_token None"),
        ({"mask_token": None}, [{"id": 60, "content": "<|MASK|>"}], "mask_token None"),
        ({"mask_token": "<|MASK|>"}, [{"id": 60, "content": "<mask>"}], r"mask_token '<\|MASK\|>'"),
        ({"mask_token": "<|MASK|>"}, None, r"mask_token '<\|MASK\|>'"),
    ],
)
def test_a_mask_token_is_never_guessed(tmp_path: Path, settings_of: dict[str, Any], added: Any, found: str) -> None:
    saved(tmp_path, fields={"mask_token_id": ...})
    for _ in range(2):  # without the files, then with them
        with pytest.raises(
            CheckpointError, match=r"mask_token_id in config\.json, or mask_token in tokenizer_config\.json"
        ) as caught:
            load(tmp_path)
        edit_json(tmp_path / "tokenizer.json", added_tokens=added)
        edit_json(tmp_path / "tokenizer_config.json", **settings_of)
    with pytest.raises(CheckpointError, match=found) as caught:
        load(tmp_path)
    assert "found no mask_token_id" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_sliding_window": True}, "expected use_sliding_window to be False, found True"),
        ({"attention_bias": True}, "expected attention_bias to be False, found True"),
        ({"block_size": 0}, "expected block_size to be positive, found 0"),
        ({"mask_token_id": VOCAB}, f"expected mask_token_id below vocab_size={VOCAB}"),
        ({"architectures": ["SDARMoeForCausalLM"]}, r"'SDARForCausalLM', .*found \['SDARMoeForCausalLM'\]"),
    ],
)
def test_a_variant_that_cannot_be_run_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    saved(tmp_path, fields=fields)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


class Twin(Naive):
    """Aligned block diffusion without cache: every pass is one forward over all that is known, under the mask."""

    def aligned(self, block: int, threshold: float, selection: Selection = "vendor") -> None:
        self.block, self.text_first = block, selection == "text_first"
        while not self.finished:
            slots: list[int | None] = [None] * (block - len([*self.prompt, *self.out]) % block)
            while not self.settled(slots):
                self.denoise(slots, threshold)
                self.passes += 1
            self.emit(prefix(slots))
            self.passes += not self.finished  # the block is written only if something comes behind it

    def denoise(self, slots: list[int | None], threshold: float) -> None:
        known = [*self.prompt, *self.out]
        tokens = [*known, *(self.model.config.mask_id if slot is None else slot for slot in slots)]
        number = torch.arange(len(tokens)) // self.block
        rows = self.pass_over(tokens, list(range(len(tokens))), number[None] <= number[:, None], None)[len(known) :]
        end = next((at for at, slot in enumerate(slots) if slot in self.ends and self.text_first), len(slots))
        masked = [at for at, slot in enumerate(slots) if slot is None and at < end]
        chosen = {at: self.choose(rows[at], len(known) + at) for at in masked}
        confidence = {at: float(torch.softmax(rows[at], 0)[chosen[at]]) for at in masked}
        no_ends = [at for at in masked if chosen[at] not in self.ends] or masked[:1]
        best = max(no_ends if self.text_first else masked, key=lambda at: confidence[at])
        for at in masked:
            if at == best or confidence[at] >= threshold:
                slots[at] = chosen[at]


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.0, 0.6, 1.0, 1.7]),
    top_k=st.sampled_from([0, 0, 1, 3, 20]),
    top_p=st.sampled_from([1.0, 1.0, 0.9, 0.4]),
    seed=st.integers(0, 2**64 - 1),
)
thresholds = st.sampled_from([0.1, 0.3, 0.6, 0.9, 1.0])


def models_of(*blocks: int) -> st.SearchStrategy[Transformer]:
    configs = [replace(config, block_size=block) for block in blocks for config in (SDAR, ENDLESS)]
    return st.builds(
        small.model,
        st.integers(0, 1000),
        st.sampled_from(configs),
        shared=st.sampled_from([0.5, 2.0, 4.0]),
        sharpness=st.sampled_from([2.0, 6.0]),
    )


def add_up(request: DecodeRequest, result: DecodeResult, ends: Sequence[int]) -> None:
    """Every count of a result follows from its rounds, and the output ends where it says."""
    stats, rounds, ids = result.stats, result.rounds, result.token_ids
    origins = "".join(r.origins for r in rounds)
    assert tuple(itertools.chain.from_iterable(r.tokens for r in rounds)) == ids
    budget = origins.count("b")
    assert Counter(origins) == +Counter(a=stats.accepted, b=budget, f=stats.forced - budget, r=stats.repaired)
    assert len(origins) == len(ids) == stats.output_tokens <= request.max_tokens
    assert stats.forward_passes == sum(r.forward_passes for r in rounds)
    for r in rounds:
        assert r.mode == "diffusion"
        assert len(r.origins) == len(r.tokens)
        assert r.drafted == r.accepted + len(r.rejected) == sum(r.fills)
        assert all(fill >= 1 for fill in r.fills)
        assert not r.fills or r.forward_passes == len(r.fills)
        assert r.forward_passes or r.tokens
    assert all(token not in ends for token in ids[:-1])
    assert all(token < small.TEXT_VOCAB and token != small.MASK for token in ids)
    if not request.stop:
        assert result.finish_reason == ("stop" if ids[-1] in ends else "length")
        assert result.finish_reason == "stop" or len(ids) == request.max_tokens


def decode(engine: TokenEngine, request: DecodeRequest) -> DecodeResult:
    result = engine.decode(request)
    add_up(request, result, engine.model.config.eos_token_ids)
    return result


@given(
    model=models_of(1, 2, 3, 4, 8, 32),
    threshold=thresholds,
    selection=st.sampled_from(SELECTIONS),
    sampling=samplings,
    prompt=st.lists(st.integers(0, small.VOCAB - 1), min_size=1, max_size=20).map(tuple),
    max_tokens=st.integers(1, 30),
)
@settings(EXAMPLES, max_examples=120)
def test_decoding_equals_its_naive_twin(
    model: Transformer,
    threshold: float,
    selection: Selection,
    sampling: Sampling,
    prompt: tuple[int, ...],
    max_tokens: int,
) -> None:
    block, ends = model.config.block_size, model.config.eos_token_ids
    options = DiffusionOptions(threshold=threshold, selection=selection)
    request = DecodeRequest(prompt=prompt, options=options, sampling=sampling, max_tokens=max_tokens)
    result = decode(small.engine(model), request)
    twin = Twin(model, prompt, sampling, max_tokens, small.TEXT_VOCAB, ends)
    twin.aligned(block, threshold, selection)
    assert list(result.token_ids) == twin.out
    assert result.stats.forward_passes == twin.passes
    assert result.stats.prefill_passes == (len(prompt) >= block)


@pytest.mark.parametrize("temperature", [0.0, 1.2])
@pytest.mark.parametrize("size", [PREFILL_CHUNK - 1, PREFILL_CHUNK, 2 * PREFILL_CHUNK + 6])
def test_long_prompts_are_written_in_whole_blocks(temperature: float, size: int) -> None:
    model = small.model(5, replace(ENDLESS, block_size=3), shared=4, sharpness=3)
    request = DecodeRequest(
        prompt=small.prompt(1, size),
        options=DiffusionOptions(threshold=0.4),
        sampling=Sampling(temperature=temperature, seed=9),
        max_tokens=12,
    )
    result = decode(small.engine(model), request)
    twin = Twin(model, request.prompt, request.sampling, 12, small.TEXT_VOCAB, model.config.eos_token_ids)
    twin.aligned(3, 0.4)
    assert list(result.token_ids) == twin.out
    assert result.stats.prefill_passes == -(-(size // 3 * 3) // (PREFILL_CHUNK // 3 * 3))


@pytest.mark.parametrize("block", [1, 3, 4, 96, 300])
def test_chunks_of_a_prompt_begin_and_end_on_borders(block: int) -> None:
    drafting = Drafting(noise=Noise.mask(MASK))
    context = CacheState(pending=list(range(1000)), mask_id=MASK, drafting=drafting, adapter=False)
    chunks = list(context.write(block))
    assert all(chunk.start % block == len(chunk.trunk) % block == 0 for chunk in chunks)
    assert all(0 < len(chunk.trunk) <= max(block, PREFILL_CHUNK) and chunk.prefill for chunk in chunks)
    assert [token for chunk in chunks for token in chunk.trunk] == list(range(1000 // block * block))
    assert context.pending == list(range(1000 // block * block, 1000))
    context.pending += range(block)
    assert [chunk.prefill for chunk in context.write(block)] == [False] * -(-block // max(block, PREFILL_CHUNK))


@pytest.mark.parametrize("block", [1, 4])
def test_the_budget_holds_exactly(block: int) -> None:
    engine = small.engine(small.model(2, replace(ENDLESS, block_size=block), shared=4))
    options = DiffusionOptions(threshold=0.2)
    whole = decode(engine, DecodeRequest(prompt=(1, 2), options=options, max_tokens=30)).token_ids
    for budget in range(1, 30):
        result = decode(engine, DecodeRequest(prompt=(1, 2), options=options, max_tokens=budget))
        assert result.token_ids == whole[:budget]
        assert result.finish_reason == "length"


@pytest.mark.parametrize("seed", range(10))
def test_a_stop_string_cuts_at_the_earliest_token(seed: int) -> None:
    engine = small.engine(small.model(seed, ENDLESS, shared=2))
    request = DecodeRequest(
        prompt=(1, 2, 3),
        options=DiffusionOptions(threshold=0.3),
        sampling=Sampling(temperature=2.0, seed=seed),
        max_tokens=40,
    )
    unstopped = decode(engine, request)
    piece = small.text(unstopped.token_ids)[5:8]
    count = next(n for n in range(1, 41) if piece in small.text(unstopped.token_ids[:n]))
    stopped = decode(engine, replace(request, stop=(piece,)))
    text = small.text(unstopped.token_ids[:count])
    assert (stopped.token_ids, stopped.text) == (unstopped.token_ids[:count], text[: text.find(piece)])
    assert decode(engine, request).token_ids == unstopped.token_ids


@given(
    model=models_of(1, 2, 4, 8, 3, 6),
    threshold=thresholds,
    sampling=samplings,
    cut=st.integers(1, 150),
    seed=st.integers(0, 99),
)
@settings(EXAMPLES, max_examples=25)
def test_a_reused_prefix_changes_nothing(
    model: Transformer, threshold: float, sampling: Sampling, cut: int, seed: int
) -> None:
    engine, block = small.engine(model), model.config.block_size
    options = DiffusionOptions(threshold=threshold)
    first = DecodeRequest(prompt=small.prompt(seed, 140), options=options, sampling=sampling, max_tokens=20)
    known = (*first.prompt, *decode(engine, first).token_ids)
    second = replace(first, prompt=(*known[:cut], *small.prompt(seed + 1, 7)))
    shared = PAGE % block == 0  # otherwise a block could lie on two pages
    for request, least in ((first, 139), (second, min(cut, 140)), (first, 139)):
        warm, cold = decode(engine, request), decode(small.engine(model), request)
        assert warm.stats.cached_tokens % block == 0
        assert (warm.stats.cached_tokens >= least // block * block) if shared else warm.stats.cached_tokens == 0
        assert warm.token_ids == cold.token_ids
        assert warm.rounds == cold.rounds


@given(model=models_of(4, 16), threshold=thresholds, sampling=samplings)
@settings(EXAMPLES, max_examples=20)
def test_a_conversation_writes_only_what_is_new(model: Transformer, threshold: float, sampling: Sampling) -> None:
    engine, history = small.engine(model), small.prompt(0, 33)
    for turn in range(3):
        options = DiffusionOptions(threshold=threshold)
        request = DecodeRequest(prompt=history, options=options, sampling=sampling, max_tokens=15)
        warm = decode(engine, request)
        assert warm.token_ids == decode(small.engine(model), request).token_ids
        assert warm.stats.cached_tokens >= (32 if turn else 0)
        history = (*history, *warm.token_ids, *small.prompt(turn, 3))


def test_the_index_keeps_and_finds_whole_blocks() -> None:
    pool = PagePool(SDAR, 1 << 20, torch.float32, CPU)
    index, text = PrefixIndex(pool, block=4), list(range(PAGE + 10))
    index.insert(text, pool.take(2))
    assert sorted(len(node.tokens) for node in index.nodes()) == [8, PAGE]
    assert [index.match(text[:size]).length for size in (3, 4, PAGE - 1, PAGE + 3, PAGE + 7, PAGE + 10)] == [
        *(0, 4, PAGE - 4, PAGE, PAGE + 4, PAGE + 8)
    ]
    assert index.match(text[: PAGE + 3]).partial is None


def test_texts_that_part_inside_a_block_do_not_share_it() -> None:
    model = small.model(3, ENDLESS, shared=2)
    engine, common = small.engine(model), small.prompt(5, PAGE + 6)
    for tail in ((1, 2), (3, 4), (1, 4), (1, 2)):
        request = DecodeRequest(prompt=(*common, *tail, 9, 9), options=DiffusionOptions(), max_tokens=10)
        warm, cold = decode(engine, request), decode(small.engine(model), request)
        assert warm.rounds == cold.rounds
        assert warm.stats.cached_tokens in (0, PAGE + 4, PAGE + 8)


@pytest.mark.parametrize("block", [1, 4, 6])
def test_requests_in_company_get_what_they_get_alone(block: int) -> None:
    model = small.model(block, replace(SDAR, block_size=block), shared=2)

    def requests() -> list[DecodeRequest]:
        return [
            DecodeRequest(
                prompt=small.prompt(index, 1 + 23 * index % 300),
                options=DiffusionOptions(threshold=(0.2, 0.5, 0.9)[index % 3]),
                sampling=Sampling(temperature=(0.0, 1.0)[index % 2], seed=index, top_k=index % 3 * 4),
                max_tokens=5 + 9 * index % 40,
                stop=("abab",) if index % 4 == 3 else (),
                constraint=automaton(index) if index % 3 == 2 else None,
            )
            for index in range(14)
        ]

    together = small.engine(model).decode_many(requests())
    for request, found in zip(requests(), together, strict=True):
        add_up(request, found, (small.EOS,))
        alone = small.engine(model).decode(request)
        assert (found.token_ids, found.text, found.rounds) == (alone.token_ids, alone.text, alone.rounds)
        assert found.stats.forward_passes == alone.stats.forward_passes


def automaton(seed: int) -> Automaton:
    return random_automaton(seed, small.VOCAB, USABLE, (small.EOS,))


@given(
    model=models_of(1, 2, 4, 5, 16),
    sampling=samplings,
    threshold=st.sampled_from([0.05, 0.3, 0.6, 0.9, 1.0]),
    seed=st.integers(0, 10_000),
    size=st.integers(1, 9),
    max_tokens=st.integers(1, 40),
)
@settings(EXAMPLES, max_examples=100)
def test_grammars_hold_in_bounded_passes(
    model: Transformer, sampling: Sampling, threshold: float, seed: int, size: int, max_tokens: int
) -> None:
    model.config = replace(SDAR, block_size=model.config.block_size)
    result = decode(
        small.engine(model),
        DecodeRequest(
            prompt=small.prompt(seed, size),
            options=DiffusionOptions(threshold=threshold),
            sampling=sampling,
            max_tokens=max_tokens,
            constraint=automaton(seed),
        ),
    )
    assert accepts(automaton(seed), result.token_ids)
    assert all(found.forward_passes <= 2 * model.config.block_size for found in result.rounds)
    assert result.stats.forward_passes <= 3 * len(result.token_ids) + 2 * model.config.block_size


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 9])
def test_a_wholly_forced_text_needs_no_pass(block: int, length: int) -> None:
    moves = {state: {10 + state: state + 1} for state in range(length)} | {length: dict[int, int]()}
    engine = small.engine(small.model(4, replace(SDAR, block_size=block)))
    rule = Automaton(moves, frozenset({length}), (small.EOS,), small.VOCAB)
    request = DecodeRequest(prompt=(1,), options=DiffusionOptions(), max_tokens=20, constraint=rule.fork())
    whole = decode(engine, request)
    assert whole.token_ids == (*range(10, 10 + length), small.EOS)
    assert whole.stats.forward_passes == whole.stats.prefill_passes == 0
    cut = decode(engine, replace(request, max_tokens=length, constraint=rule.fork()))
    assert (cut.token_ids, cut.finish_reason) == (tuple(range(10, 10 + length)), "length")


@pytest.mark.parametrize("size", range(1, 9))
def test_forced_stretches_run_past_blocks(size: int) -> None:
    moves = {state: {10 + state % 9: (state + 1) % 22} for state in range(22)}
    moves[0] = {8: 1, 9: 1}
    moves[11] = {6: 12, 7: 12}
    rule = Automaton(moves, frozenset(), (small.EOS,), small.VOCAB)
    engine = small.engine(small.model(5, SDAR, shared=2))
    request = DecodeRequest(
        prompt=small.prompt(size, size), options=DiffusionOptions(), max_tokens=66, constraint=rule.fork()
    )
    result = decode(engine, request)
    assert accepts(rule, result.token_ids)
    assert result.stats.forced == 60
    written = [found for found in result.rounds if found.tokens and not found.fills]
    assert any(len(found.tokens) > 4 and found.forward_passes == 1 for found in written)


@given(seed=st.integers(0, 300), budget=st.integers(0, 20), more=st.integers(1, 25), constrained=st.booleans())
@EXAMPLES
def test_the_thinking_marker_comes_in_time(seed: int, budget: int, more: int, constrained: bool) -> None:
    end, grammar = 11, automaton(seed) if constrained else None
    request = DecodeRequest(
        prompt=small.prompt(seed, 1 + seed % 9),
        options=DiffusionOptions(threshold=0.4),
        sampling=Sampling(temperature=seed % 2, seed=seed),
        max_tokens=budget + more,
        constraint=grammar.fork() if grammar else None,
        thinking=Thinking(end, budget),
    )
    ids = decode(small.engine(small.model(seed, SDAR, shared=2)), request).token_ids
    if end in ids:
        assert ids.index(end) <= budget
        assert grammar is None or accepts(grammar, ids[ids.index(end) + 1 :])
    else:
        assert len(ids) <= budget
        assert ids[-1] == small.EOS


@pytest.mark.parametrize("options", [ArOptions(), LinearSpecOptions(), QuadraticSpecOptions()], ids=lambda o: o.mode)
def test_modes_that_the_weights_do_not_have_are_refused(options: Options) -> None:
    engine = small.engine(small.model(1, SDAR))
    with pytest.raises(ModeUnavailable, match="SDARForCausalLM weights decode in diffusion only") as caught:
        engine.decode(DecodeRequest(prompt=(1, 2), options=options, max_tokens=4))
    assert (caught.value.mode, caught.value.modes) == (options.mode, ("diffusion",))


def test_scoring_and_infilling_are_refused_in_their_own_words() -> None:
    engine = small.engine(small.model(1, SDAR))
    with pytest.raises(RequestError, match=r"read given tokens causally.*SDARForCausalLM"):
        engine.decode(ScoreRequest(prompt=(1, 2), candidates=((1,), (2,))))
    with pytest.raises(RequestError, match=r"infill\(\) fills one block that begins where the prompt ends"):
        engine.decode(DecodeRequest(prompt=(1, 2), options=InfillOptions(suffix=(3,)), max_tokens=4))


def test_the_block_length_is_the_weights_own() -> None:
    engine = small.engine(small.model(1, SDAR))
    with pytest.raises(RequestError, match=r"block_length=32: .* trained for blocks of 4; leave it out"):
        engine.decode(DecodeRequest(prompt=(1, 2), options=DiffusionOptions(block_length=32), max_tokens=4))
    plain, given = (
        decode(engine, DecodeRequest(prompt=(1, 2), options=options, max_tokens=9))
        for options in (DiffusionOptions(), DiffusionOptions(block_length=4))
    )
    assert plain.token_ids == given.token_ids
    assert SDAR.fitted(DiffusionOptions(threshold=0.5)) == AlignedOptions(
        block_length=4, threshold=0.5, selection="vendor"
    )
    kept = AlignedOptions(block_length=4, selection="text_first")
    assert SDAR.fitted(kept) == kept


def test_elsewhere_the_block_length_is_32_where_nothing_is_said() -> None:
    assert small.CONFIG.fitted(DiffusionOptions()) == DiffusionOptions(block_length=32, selection="vendor")
    assert small.CONFIG.fitted(DiffusionOptions(block_length=8)) == DiffusionOptions(block_length=8, selection="vendor")
    assert small.CONFIG.fitted(AlignedOptions(block_length=8)) == DiffusionOptions(block_length=8, selection="vendor")
    assert small.CONFIG.fitted(LinearSpecOptions()) == LinearSpecOptions(block_length=32, exact_first=False)
    with pytest.raises(RequestError, match="block_length=0: expected a whole number from 1"):
        AlignedOptions(block_length=0)
