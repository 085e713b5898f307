"""The record of one call: what was asked, what ran, and how every output token came about.

Knows plain values only, so that it reads and writes without a model. Does not know files or spans. Prompts, outputs and
drafts are content: `redacted` takes them out and leaves counts, origins and digests, which still have to add up.

A digest covers the prompt and the output up to its point. So one-token rounds cannot be looked up by trying every
token, and who has the prompt, model and seed needs no digest: decoding again gives the output.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, ClassVar, Literal
from uuid import uuid4

from pydantic import ConfigDict, JsonValue

if TYPE_CHECKING:
    from trimode.engine.request import DecodeRequest, DecodeResult, Round

StepKind = Literal["plan", "tool_call", "json", "prose", "choice"]
TextOf = Callable[[Sequence[int]], str]

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyUsed:
    """The policy that chose the mode, and the rule it gave as its reason."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    version: str
    sha256: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What decoded: a replay needs the same."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    model: str
    model_sha256: str
    tokenizer_sha256: str
    device: str
    dtype: str
    kernels: str = "torch"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingUsed:
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    temperature: float
    top_k: int
    top_p: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The engine's counts of the call. `corrected` includes `repaired`; `forward_passes` leaves prefill out."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    prefill_passes: int
    forward_passes: int
    drafted: int
    accepted: int
    corrected: int
    forced: int
    repaired: int
    seconds: float
    prefill_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One round of the engine. `rejected`: [token, reason] in order. Tokens and texts are None where not kept.

    `switch`: why its mode took over from the one before, if it did.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    mode: str
    origins: str
    drafted: int
    accepted: int
    rejected: tuple[tuple[int | None, str], ...]
    forward_passes: int
    fills: tuple[int, ...]
    sha256: str
    switch: str = ""
    tokens: tuple[int, ...] | None = None
    text: str | None = None
    rejected_text: tuple[str, ...] | None = None

    def redacted(self) -> RoundRecord:
        reasons = tuple((None, reason) for _, reason in self.rejected)
        return replace(self, rejected=reasons, tokens=None, text=None, rejected_text=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One call. `requested`: mode and options as the caller asked; `options`: as they began to run, before any
    switch of the mode, which is in the rounds; `notes`: every other difference.

    `counts`, `finish_reason` and `output_sha256` are None where the engine gave no result. The last block is content.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    call: str
    step: str
    kind: StepKind
    start_ns: int
    end_ns: int
    requested: dict[str, JsonValue]
    options: dict[str, JsonValue]
    sampling: SamplingUsed
    max_tokens: int
    stop: tuple[str, ...]
    policy: PolicyUsed
    runtime: Runtime
    versions: dict[str, str]
    schema_sha256: str | None
    schema_valid: bool | None
    notes: tuple[str, ...]
    error: str | None
    finish_reason: str | None
    prompt_sha256: str
    output_sha256: str | None
    counts: Counts | None
    rounds: tuple[RoundRecord, ...]

    prompt_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    text: str | None = None
    schema: JsonValue = None
    error_message: str | None = None

    @property
    def has_content(self) -> bool:
        return self.prompt_ids is not None

    def redacted(self) -> CallRecord:
        """The same record without content; it still verifies."""
        return replace(
            self,
            rounds=tuple(part.redacted() for part in self.rounds),
            prompt_ids=None,
            token_ids=None,
            text=None,
            schema=None,
            error_message=None,
        )


def record_call(
    *,
    step: str,
    kind: StepKind,
    requested: Mapping[str, JsonValue],
    request: DecodeRequest,
    result: DecodeResult | None,
    policy: PolicyUsed,
    runtime: Runtime,
    start_ns: int,
    end_ns: int,
    call: str | None = None,
    schema: JsonValue = None,
    schema_sha256: str | None = None,
    schema_valid: bool | None = None,
    notes: Sequence[str] = (),
    error: BaseException | None = None,
    text_of: TextOf | None = None,
) -> CallRecord:
    """The full record, content included; sinks redact it. `text_of` adds the text of each round and rejected token."""
    made = result.rounds if result else ()
    digests = sequence_digests(request.prompt, (part.tokens for part in made))
    return CallRecord(
        call=call or uuid4().hex,
        step=step,
        kind=kind,
        start_ns=start_ns,
        end_ns=end_ns,
        requested=dict(requested),
        options={"mode": request.begins.mode, **_options(request)},
        sampling=SamplingUsed(**asdict(request.sampling)),
        max_tokens=request.max_tokens,
        stop=tuple(request.stop),
        policy=policy,
        runtime=runtime,
        versions=versions(),
        schema_sha256=schema_sha256,
        schema_valid=schema_valid,
        notes=tuple(notes),
        error=None if error is None else error_type(error),
        finish_reason=result.finish_reason if result else None,
        prompt_sha256=digests[0],
        output_sha256=digests[-1] if result else None,
        counts=_counts(result) if result else None,
        rounds=tuple(_round(part, digest, text_of) for part, digest in zip(made, digests[1:], strict=True)),
        prompt_ids=tuple(request.prompt),
        token_ids=result.token_ids if result else None,
        text=result.text if result else None,
        schema=schema,
        error_message=None if error is None else str(error),
    )


def _options(request: DecodeRequest) -> dict[str, JsonValue]:
    """The mode's options; of token ids among them, which are content, the number."""
    return {name: len(v) if isinstance(v, tuple) else v for name, v in asdict(request.begins).items()}


def sequence_digests(prompt: Sequence[int], parts: Iterable[Sequence[int]]) -> list[str]:
    """sha256 of the prompt, then of everything up to the end of each part. An id is 8 bytes, signed, little-endian."""
    state = sha256(_bytes(prompt))
    digests = [state.hexdigest()]
    for part in parts:
        state.update(_bytes(part))
        digests.append(state.hexdigest())
    return digests


def error_type(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """Read from package metadata, so that torch is not imported for it."""
    return {package: _version(package) for package in ("trimode", "torch")}


def _bytes(ids: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(ids)}q", *ids)


def _counts(result: DecodeResult) -> Counts:
    return Counts(**{field.name: getattr(result.stats, field.name) for field in fields(Counts)})


def _round(made: Round, digest: str, text_of: TextOf | None) -> RoundRecord:
    return RoundRecord(
        mode=made.mode,
        origins=made.origins,
        drafted=made.drafted,
        accepted=made.accepted,
        rejected=tuple((lost.token, lost.reason) for lost in made.rejected),
        forward_passes=made.forward_passes,
        fills=made.fills,
        sha256=digest,
        switch=made.switch,
        tokens=made.tokens,
        text=text_of(made.tokens) if text_of else None,
        rejected_text=tuple(text_of([lost.token]) for lost in made.rejected) if text_of else None,
    )
