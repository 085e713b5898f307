"""Selection in block diffusion: "vendor" is the weights' own loop in every token, "text_first" is another one.

Both keep to grammar and budget, and config.json says which is the default.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import small
import torch
from automaton import accepts, random_automaton
from hypothesis import given, settings
from hypothesis import strategies as st
from vendor import Vendor

from trimode.engine.constraint import Thinking
from trimode.engine.errors import RequestError
from trimode.engine.models.config import ModelConfig
from trimode.engine.models.model import Transformer
from trimode.engine.options import SELECTIONS, DiffusionOptions, Selection
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.result import DecodeResult
from trimode.policy.calls.engine import Engine

EXAMPLES = settings(deadline=None, derandomize=True, max_examples=120)
NO_END = small.with_ends(small.MASK)
MANY_ENDS = small.with_ends(*range(0, small.VOCAB, 7))
USABLE = [token for token in range(small.TEXT_VOCAB) if token != small.MASK]
THINKING_END = 11

models = st.builds(
    small.model,
    st.integers(0, 1000),
    st.sampled_from([small.CONFIG, NO_END, MANY_ENDS]),
    shared=st.sampled_from([0.5, 2.0, 4.0]),
    sharpness=st.sampled_from([2.0, 6.0]),
)
thresholds = st.sampled_from([0.05, 0.2, 0.5, 0.9, 1.0])


def asked(model: Transformer, request: DecodeRequest) -> tuple[DecodeResult, Vendor]:
    """A request and the vendor's loop on the same model."""
    assert isinstance(request.options, DiffusionOptions)
    ends = model.config.eos_token_ids
    loop = Vendor(model, request.prompt, request.sampling, request.max_tokens, small.TEXT_VOCAB, ends)
    loop.diffusion(request.options.block_length or 32, request.options.threshold, request.thinking)
    return small.engine(model).decode(request), loop


@given(
    model=models,
    block_length=st.integers(2, 12),
    threshold=thresholds,
    temperature=st.sampled_from([0.0, 0.0, 0.6, 1.0, 1.7]),
    seed=st.integers(0, 1000),
    size=st.integers(1, 20),
    max_tokens=st.integers(1, 30),
)
@EXAMPLES
def test_vendor_is_the_vendors_loop(
    model: Transformer, block_length: int, threshold: float, temperature: float, seed: int, size: int, max_tokens: int
) -> None:
    request = DecodeRequest(
        prompt=small.prompt(seed, size),
        options=DiffusionOptions(block_length=block_length, threshold=threshold),
        sampling=Sampling(temperature=temperature, seed=seed),
        max_tokens=max_tokens,
    )
    result, loop = asked(model, request)
    assert list(result.token_ids) == loop.out
    assert result.stats.forward_passes == loop.passes


@given(
    model=models,
    block_length=st.integers(2, 12),
    threshold=thresholds,
    temperature=st.sampled_from([0.0, 1.0, 1.7]),
    seed=st.integers(0, 1000),
    budget=st.integers(0, 20),
    more=st.integers(1, 20),
)
@EXAMPLES
def test_vendor_with_a_thinking_budget(
    model: Transformer, block_length: int, threshold: float, temperature: float, seed: int, budget: int, more: int
) -> None:
    """Its passes see the marker in its slot from the start, as the vendor's do."""
    request = DecodeRequest(
        prompt=small.prompt(seed, 5),
        options=DiffusionOptions(block_length=block_length, threshold=threshold, selection="vendor"),
        sampling=Sampling(temperature=temperature, seed=seed),
        max_tokens=budget + more,
        thinking=Thinking(THINKING_END, budget),
    )
    result, loop = asked(model, request)
    assert list(result.token_ids) == loop.out
    assert result.stats.drafted == result.stats.accepted + result.stats.rejected


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_whole_blocks_of_32_equal_the_vendors(temperature: float) -> None:
    model = small.model(3, NO_END, shared=4, sharpness=3)
    request = DecodeRequest(
        prompt=small.prompt(1, 60),
        options=DiffusionOptions(threshold=0.3),
        sampling=Sampling(temperature=temperature, seed=9),
        max_tokens=75,
    )
    result, loop = asked(model, request)
    assert list(result.token_ids) == loop.out


def test_the_selections_part_where_ends_are_sure() -> None:
    """Otherwise the tests above would show nothing."""
    apart = 0
    for seed in range(20):
        engine = small.engine(small.model(seed, MANY_ENDS, shared=0.5, sharpness=2))
        sampling = Sampling(temperature=1.0, seed=seed)
        request = DecodeRequest(prompt=small.prompt(seed, 6), sampling=sampling, max_tokens=30)
        found = {
            engine.decode(replace(request, options=DiffusionOptions(block_length=12, selection=selection))).token_ids
            for selection in SELECTIONS
        }
        apart += len(found) == 2
    assert apart >= 3


ASKED = ("List the days of the week.", "What is 12 times 4?", "Write a short plan for a trip to Bonn.", "Say yes.")


@pytest.mark.parametrize(("block_length", "threshold"), [(4, 0.9), (8, 0.9), (8, 0.5), (32, 0.9), (32, 0.6)])
def test_the_bundled_checkpoint_equals_the_vendors_loop(reference: Engine, block_length: int, threshold: float) -> None:
    engine, (model, _) = reference.tokens, reference.checkpoint.load(torch.float32, torch.device("cpu"))
    for text, max_tokens in zip(ASKED, (30, 21, 37, 12), strict=True):
        prompt = tuple(reference.tokenizer.encode_chat([{"role": "user", "content": text}]))
        options = DiffusionOptions(block_length=block_length, threshold=threshold, selection="vendor")
        result = engine.decode(DecodeRequest(prompt=prompt, options=options, max_tokens=max_tokens))
        usable = int((~engine.banned).nonzero().max()) + 1
        loop = Vendor(model, prompt, Sampling(), max_tokens, usable, model.config.eos_token_ids)
        loop.diffusion(block_length, threshold)
        assert list(result.token_ids) == loop.out, text
        assert result.stats.forward_passes == loop.passes


@given(
    model=models,
    selection=st.sampled_from(SELECTIONS),
    block_length=st.integers(2, 24),
    threshold=thresholds,
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 10_000),
    thinking=st.sampled_from([None, None, 0, 3, 9]),
    max_tokens=st.integers(10, 40),
)
@EXAMPLES
def test_both_keep_to_grammar_and_budget(
    model: Transformer,
    selection: Selection,
    block_length: int,
    threshold: float,
    temperature: float,
    seed: int,
    thinking: int | None,
    max_tokens: int,
) -> None:
    model.config = small.CONFIG
    rule = random_automaton(seed, small.VOCAB, USABLE, (small.EOS,))
    request = DecodeRequest(
        prompt=(1, 2),
        options=DiffusionOptions(block_length=block_length, threshold=threshold, selection=selection),
        sampling=Sampling(temperature=temperature, seed=seed),
        max_tokens=max_tokens,
        constraint=rule.fork(),
        thinking=None if thinking is None else Thinking(THINKING_END, thinking),
    )
    result = small.engine(model).decode(request)
    ids, stats = result.token_ids, result.stats
    if thinking is not None and THINKING_END in ids:
        assert ids.index(THINKING_END) <= thinking
        ids = ids[ids.index(THINKING_END) + 1 :]
    assert accepts(rule, ids)
    closes = rule.completion(max_tokens - (0 if thinking is None else thinking + 1)) is not None
    assert not closes or result.finish_reason == "stop"
    assert all(round_.forward_passes <= 2 * block_length for round_ in result.rounds)
    assert stats.drafted == stats.accepted + sum(len(round_.rejected) for round_ in result.rounds)


def config(**own: Any) -> ModelConfig:
    fields = {name: getattr(small.CONFIG, name) for name in ModelConfig.__slots__}
    return ModelConfig.from_dict(
        {
            **fields,
            "architectures": [small.CONFIG.architecture],
            "eos_token_id": small.EOS,
            "rope_parameters": {"rope_theta": 1e4},
            **own,
        }
    )


def test_the_weights_say_the_default_and_the_call_has_the_last_word() -> None:
    assert config().selection == config(trimode={}).selection == "vendor"
    textual = config(trimode={"diffusion_selection": "text_first"})
    assert textual.selection == "text_first"
    assert textual.fitted(DiffusionOptions()) == DiffusionOptions(block_length=32, selection="text_first")
    own = DiffusionOptions(block_length=8, selection="vendor")
    assert textual.fitted(own) == own


def test_unknown_selections_are_refused() -> None:
    with pytest.raises(RequestError, match="selection='best': expected 'vendor' or 'text_first'"):
        DiffusionOptions(selection=cast(Any, "best"))
