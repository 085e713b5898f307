"""A request decoded by the engine, with its counts checked, and by the naive twin of its mode."""

from __future__ import annotations

import itertools
from collections import Counter

import small
from hypothesis import strategies as st
from naive import Naive
from vendor import Vendor

from trimode.engine.options import (
    AdaptiveOptions,
    AlignedOptions,
    ArOptions,
    DiffusionOptions,
    InfillOptions,
    LinearSpecOptions,
    LookupSpecOptions,
    QuadraticSpecOptions,
    SectionOptions,
)
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.result import DecodeResult
from trimode.engine.token_engine import TokenEngine

samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.0, 0.6, 1.0, 1.7]),
    top_k=st.sampled_from([0, 0, 1, 3, 20]),
    top_p=st.sampled_from([1.0, 1.0, 0.9, 0.4]),
    seed=st.integers(0, 2**64 - 1),
)


def add_up(request: DecodeRequest, result: DecodeResult, ends: tuple[int, ...]) -> None:
    """Every count of a result follows from its rounds, and the output ends where it says."""
    stats, rounds = result.stats, result.rounds
    ids, origins = result.token_ids, "".join(r.origins for r in rounds)
    assert tuple(itertools.chain.from_iterable(r.tokens for r in rounds)) == ids
    assert len(origins) == len(ids) == stats.output_tokens <= request.max_tokens
    assert Counter(origins) == +Counter(
        a=stats.accepted,
        b=origins.count("b"),
        c=stats.corrected - stats.repaired,
        f=stats.forced - origins.count("b"),
        r=stats.repaired,
    )
    assert stats.accepted + stats.corrected + stats.forced == stats.output_tokens
    rejected = [token for r in rounds for token in r.rejected]
    assert stats.drafted == stats.accepted + len(rejected)
    assert stats.rejected == len(rejected)
    assert sum(r.forward_passes for r in rounds) == stats.forward_passes
    for r in rounds:
        assert len(r.tokens) == len(r.origins)
        assert r.drafted == r.accepted + len(r.rejected)
        assert all(fill >= 1 for fill in r.fills)
        assert sum(r.fills) == (r.drafted if r.fills else 0)
        assert r.mode == request.options.mode
    assert all(token not in ends for token in ids[:-1])
    assert all(token < small.TEXT_VOCAB and token != small.MASK for token in ids)
    ended = bool(ids) and ids[-1] in ends
    if not request.stop:
        assert result.finish_reason == ("stop" if ended else "length")
    if result.finish_reason == "length":
        assert len(ids) == request.max_tokens


def decode(engine: TokenEngine, request: DecodeRequest) -> DecodeResult:
    result = engine.decode(request)
    add_up(request, result, engine.model.config.eos_token_ids)
    return result


def run_naive(engine: TokenEngine, request: DecodeRequest) -> Naive:
    config = engine.model.config
    asked = (engine.model, request.prompt, request.sampling, request.max_tokens, small.TEXT_VOCAB, config.eos_token_ids)
    plain, vendors = Naive(*asked), Vendor(*asked)
    match request.options:
        case ArOptions():
            plain.ar()
        case LinearSpecOptions(block_length=length, exact_first=exact_first):
            (plain.exact_first if exact_first else plain.linear_spec)(length or 32)
        case QuadraticSpecOptions(block_length=length):
            plain.quadratic_spec(length or 16)
        case LookupSpecOptions(block_length=length, min_match=match):
            plain.lookup_spec(length, match, request.lookup)
        case DiffusionOptions(block_length=length, threshold=threshold, selection=selection):
            plain = vendors if selection == "vendor" else plain
            plain.diffusion(length or 32, threshold)
        case InfillOptions() | AlignedOptions() | AdaptiveOptions() | SectionOptions():
            raise NotImplementedError("infill, aligned, adaptive and section tests have twins of their own")
    return plain
