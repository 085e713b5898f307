"""What a request refuses at construction, and the messages: what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from trimode.engine.errors import RequestError, TrimodeError
from trimode.engine.options import (
    ArOptions,
    DiffusionOptions,
    LinearSpecOptions,
    LookupSpecOptions,
    QuadraticSpecOptions,
)
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.result import EXACT, Stats
from trimode.kernels.native.native_ops import Native
from trimode.kernels.reference import torch_ops

NAN = float("nan")
REFUSED: list[tuple[Callable[..., object], dict[str, Any], str]] = [
    (Sampling, {"temperature": -0.1}, r"temperature=-0\.1: expected 0 \(greedy\) or a number from 1e-20"),
    (Sampling, {"temperature": 100}, r"temperature=100: expected"),
    (Sampling, {"temperature": NAN}, r"temperature=nan: expected"),
    (Sampling, {"temperature": 1e-30}, r"temperature=1e-30: expected"),
    (Sampling, {"top_k": -1}, r"top_k=-1: expected a whole number from 0 \(off\) up"),
    (Sampling, {"top_k": 1.5}, r"top_k=1\.5: expected"),
    (Sampling, {"top_p": 0}, r"top_p=0: expected a number above 0, at most 1\.0"),
    (Sampling, {"top_p": 1.01}, r"top_p=1\.01: expected"),
    (Sampling, {"top_p": NAN}, r"top_p=nan: expected"),
    (Sampling, {"seed": -1}, r"seed=-1: expected a whole number from 0 to 2\*\*64 - 1"),
    (Sampling, {"seed": 2**64}, r"seed=18446744073709551616: expected"),
    (Sampling, {"seed": 1.5}, r"seed=1\.5: expected"),
    (DiffusionOptions, {"block_length": 1}, r"block_length=1: expected a whole number from 2 to 256"),
    (DiffusionOptions, {"block_length": 257}, r"block_length=257: expected"),
    (DiffusionOptions, {"block_length": 8.0}, r"block_length=8\.0: expected"),
    (DiffusionOptions, {"threshold": 0}, r"threshold=0: expected a number above 0, at most 1"),
    (DiffusionOptions, {"threshold": 1.1}, r"threshold=1\.1: expected"),
    (DiffusionOptions, {"threshold": NAN}, r"threshold=nan: expected"),
    (LinearSpecOptions, {"block_length": 0}, r"block_length=0: expected"),
    (LinearSpecOptions, {"block_length": 257}, r"block_length=257: expected"),
    (LinearSpecOptions, {"block_length": 2.5}, r"block_length=2\.5: expected"),
    (DecodeRequest, {"prompt": ()}, r"prompt=\(\): expected at least one token"),
    (DecodeRequest, {"prompt": (1,), "max_tokens": 0}, r"max_tokens=0: expected at least 1"),
    (DecodeRequest, {"prompt": (1,), "max_tokens": 1.5}, r"max_tokens=1\.5: expected"),
    (DecodeRequest, {"prompt": (1,), "stop": ("a", "")}, r"stop=\('a', ''\): expected non-empty strings"),
]


@pytest.mark.parametrize(("kind", "given", "message"), REFUSED)
def test_what_cannot_be_served_is_refused_with_reason(
    kind: Callable[..., object], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match="^" + message) as caught:
        kind(**given)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TrimodeError)


def test_the_ends_of_every_range_are_allowed() -> None:
    Sampling(temperature=0, top_k=0, top_p=1, seed=0)
    Sampling(temperature=1e-20, top_k=10**9, top_p=1e-9, seed=2**64 - 1)
    for length in (2, 256):
        DiffusionOptions(block_length=length, threshold=1)
        LinearSpecOptions(block_length=length)
    DecodeRequest(prompt=(0,), max_tokens=1, stop=(" ",))


def test_unknown_options_cannot_be_written() -> None:
    options: Any = ArOptions
    with pytest.raises(TypeError):
        options(threshold=0.5)


@pytest.mark.parametrize("sample_rows", [torch_ops.sample_rows, Native.load().sample_rows], ids=["torch", "native"])
def test_the_least_temperature_is_greedy_and_keeps_to_the_mask(sample_rows: Any) -> None:
    logits = torch.tensor([[-90.0, -80.0, -70.0, -60.0]])
    noise = torch_ops.gumbel(1, torch.tensor([1]), 4)
    banned = torch.tensor([False, False, False, True])
    token, _ = sample_rows(logits, banned, None, noise, 1e-20, 0, 1.0)
    assert int(token) == 2


def test_exact_modes_are_named() -> None:
    assert {ArOptions.mode, LinearSpecOptions.mode, QuadraticSpecOptions.mode, LookupSpecOptions.mode} == EXACT
    assert DiffusionOptions.mode not in EXACT


def test_rates_are_absent_where_prefill_made_the_output() -> None:
    counts: dict[str, Any] = dict.fromkeys(Stats.__dataclass_fields__, 0)
    assert Stats(**counts).tokens_per_forward is None
    assert Stats(**counts).tokens_per_second is None
    counts |= {"output_tokens": 12, "forward_passes": 4, "seconds": 3.0, "prefill_seconds": 1.0}
    made = Stats(**counts)
    assert made.tokens_per_forward == 3
    assert made.tokens_per_second == 6
