"""Real calls of a tiny random model, in every mode, as records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trimode.engine.constraint import WHOLE
from trimode.engine.models.config import ModelConfig
from trimode.engine.models.model import Transformer
from trimode.engine.options import ArOptions, DiffusionOptions, LinearSpecOptions, Options
from trimode.engine.request import DecodeRequest, Sampling
from trimode.engine.result import DecodeResult, Section
from trimode.engine.token_engine import TokenEngine
from trimode.policy.audit.new_record import record_call
from trimode.policy.audit.record import CallRecord, PolicyUsed, Runtime, StepKind

VOCABULARY = 64
END = 1
OPTIONS: dict[str, Options] = {
    "ar": ArOptions(),
    "diffusion": DiffusionOptions(block_length=6, threshold=0.05),
    "linear_spec": LinearSpecOptions(block_length=6),
}


def _bits(tokens: frozenset[int]) -> Tensor:
    bits = np.zeros(VOCABULARY, dtype=np.uint8)
    bits[list(tokens)] = 1
    return torch.from_numpy(np.packbits(bits, bitorder="little").view(np.int32))  # pyright: ignore[reportUnknownMemberType]


class Template:
    """A grammar of fixed length: at each place the ids that may stand there, then the end."""

    @property
    def section(self) -> Section:
        return WHOLE

    def __init__(self, places: Sequence[frozenset[int]], at: int = 0) -> None:
        self.places, self.at = places, at

    def mask(self) -> Tensor:
        return _bits(self._place(self.at))

    def forced(self) -> list[int]:
        return [*self._place(self.at)] if len(self._place(self.at)) == 1 else []

    def allows(self, token: int) -> bool:
        return token in self._place(self.at)

    def _place(self, at: int) -> frozenset[int]:
        return self.places[at] if at < len(self.places) else frozenset({END})

    def advance(self, tokens: Sequence[int]) -> None:
        self.at += len(tokens)

    def fork(self) -> Template:
        return Template(self.places, self.at)

    def completion(self, limit: int) -> list[int] | None:
        left = [min(place) for place in self.places[self.at :]]
        return [*left, END] if len(left) < limit else None

    def leads(self, token: int, limit: int) -> bool:
        return self.allows(token) and self.completion(limit + 1) is not None


def template() -> Template:
    """Runs of one allowed id (forced) between places with a few."""
    return Template([frozenset({10}), frozenset({11}), *[frozenset(range(20, 24))] * 5, frozenset({12})] * 3)


def letters(ids: Sequence[int]) -> str:
    return "".join(chr(ord("0") + token) for token in ids)


@pytest.fixture(scope="session")
def engine() -> Iterator[TokenEngine]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny products: more threads only wait for each other
    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
    fields: dict[str, Any] = {
        "architectures": ["NemotronLabsDiffusionModel"],
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
        "mask_token_id": 0,
        "eos_token_id": END,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    yield TokenEngine(Transformer(ModelConfig.from_dict(fields)), letters, VOCABULARY)
    torch.set_num_threads(threads)


Recorded = Callable[..., CallRecord]


@pytest.fixture(scope="session")
def recorded(engine: TokenEngine) -> Recorded:
    """recorded(mode, schema=False, result=None, kind="json", **more) -> the record of a real call, or of `result`."""

    def record(
        mode: str,
        *,
        schema: bool = False,
        result: DecodeResult | None = None,
        failed: BaseException | None = None,
        kind: StepKind = "json",
        seed: int = 7,
        **more: Any,
    ) -> CallRecord:
        request = DecodeRequest(
            prompt=(5, 6, 7, 8),
            options=OPTIONS[mode],
            sampling=Sampling(temperature=0.7, seed=seed),
            max_tokens=30,
            stop=("!!",),
            constraint=template() if schema else None,
        )
        if result is None and failed is None:
            result = engine.decode(request)
        return record_call(
            step=more.pop("step", "act"),
            kind=kind,
            requested={"mode": mode},
            request=request,
            result=result,
            policy=PolicyUsed(name="fixed", version="1", sha256="e" * 64, reason="step kind json"),
            runtime=Runtime(
                model="tiny", model_sha256="a" * 64, tokenizer_sha256="b" * 64, device="cpu", dtype="float32"
            ),
            session="d" * 32,
            agent="trip",
            start_ns=1_000_000_000,
            end_ns=9_000_000_000,
            schema={"type": "array"} if schema else None,
            schema_formats="strict" if schema else None,
            schema_sha256="c" * 64 if schema else None,
            schema_valid=True if schema else None,
            error=failed,
            text_of=letters,
            **more,
        )

    return record
