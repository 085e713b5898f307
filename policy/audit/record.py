"""The record of one call: what was asked, what ran, and how every output token came about.

Knows plain values only, so that it reads and writes without a model. Does not know files or spans. Prompts, outputs and
drafts are content: `redacted` takes them out and leaves counts, origins and digests, which still have to add up.

A digest covers the prompt and the output up to its point. So one-token rounds cannot be looked up by trying every
token, and who has the prompt, model and seed needs no digest: decoding again gives the output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from uuid import uuid4

from pydantic import ConfigDict, JsonValue

from ..errors import error_type
from .digests import sequence_digests
from .round_record import PieceOf, RoundRecord, TextOf, bare_round, round_record

if TYPE_CHECKING:
    from trimode.engine.request import DecodeRequest, ScoreRequest
    from trimode.engine.result import DecodeResult

StepKind = Literal["plan", "tool_call", "json", "prose", "choice"]

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
    """What decoded: a replay needs the same. `hardware`: what `device` is, as far as arithmetic depends on it.

    `quantize`: how weights were rounded: "no", "int8", or with the head "int8+head". `exactness`: whether rows agree in
    any company, on which exact modes rest: "checked" when the engine was loaded, "not promised" (kernels torch-fast),
    "not checked" (interpreted kernels), "unknown" in records from before it was asked.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    model: str
    model_sha256: str
    tokenizer_sha256: str
    device: str
    dtype: str
    kernels: str = "torch"
    hardware: str = ""
    quantize: str = "no"
    exactness: str = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingUsed:
    """The id that ends thinking, and after how many tokens it was forced."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    end: int
    budget: int


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
class CallRecord:
    """One call. `requested`: mode and options as the caller asked; `options`: as they began to run, before any
    switch of the mode, which is in the rounds; `notes`: every other difference.

    `session` and `agent`: the session around it and that session's name, None outside one. `counts`, `finish_reason`
    and `output_sha256` are None where the engine gave no result. `guarantee`: how the schema was held. `logprobs`: of a
    choice, one a candidate, in nats. The last block is content.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    call: str
    step: str
    kind: StepKind
    session: str | None
    agent: str | None
    start_ns: int
    end_ns: int
    requested: dict[str, JsonValue]
    options: dict[str, JsonValue]
    sampling: SamplingUsed
    max_tokens: int
    stop: tuple[str, ...]
    thinking: ThinkingUsed | None
    policy: PolicyUsed
    runtime: Runtime
    versions: dict[str, str]
    schema_formats: str | None
    schema_sha256: str | None
    schema_valid: bool | None
    notes: tuple[str, ...]
    error: str | None
    finish_reason: str | None
    prompt_sha256: str
    output_sha256: str | None
    counts: Counts | None
    rounds: tuple[RoundRecord, ...]
    guarantee: str | None = None

    prompt_ids: tuple[int, ...] | None = None
    suffix_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    text: str | None = None
    schema: JsonValue = None
    error_message: str | None = None
    logprobs: tuple[float, ...] | None = None

    @property
    def has_content(self) -> bool:
        return self.prompt_ids is not None

    def redacted(self) -> CallRecord:
        """The same record without content; it still verifies."""
        if not self.has_content:
            return self
        return replace(
            self,
            rounds=tuple(part.redacted() for part in self.rounds),
            prompt_ids=None,
            suffix_ids=None,
            token_ids=None,
            text=None,
            schema=None,
            error_message=None,
            logprobs=None,
        )


def record_call(
    *,
    step: str,
    kind: StepKind,
    requested: Mapping[str, JsonValue],
    request: DecodeRequest | ScoreRequest,
    result: DecodeResult | None,
    policy: PolicyUsed,
    runtime: Runtime,
    start_ns: int,
    end_ns: int,
    call: str | None = None,
    session: str | None = None,
    agent: str | None = None,
    schema: JsonValue = None,
    schema_formats: str | None = None,
    schema_sha256: str | None = None,
    schema_valid: bool | None = None,
    notes: Sequence[str] = (),
    error: BaseException | None = None,
    text_of: TextOf | None = None,
    piece_of: PieceOf | None = None,
    guarantee: str | None = None,
    logprobs: Sequence[float] | None = None,
    content: bool = True,
) -> CallRecord:
    """The full record; sinks that keep no content redact it. `text_of` adds the text of each round and rejected token.

    `piece_of`: the text of one token, where that is had for less than by `text_of`. `content=False`: the record that
    `redacted` would make, where nobody keeps more.
    """
    made, thinking = result.rounds if result else (), getattr(request, "thinking", None)
    digests = sequence_digests(request.prompt, (part.tokens for part in made))
    reads = None if text_of is None else (text_of, piece_of or (lambda token: text_of((token,))))
    parts = zip(made, digests[1:], strict=True)
    bare = CallRecord(
        call=call or uuid4().hex,
        step=step,
        kind=kind,
        session=session,
        agent=agent,
        start_ns=start_ns,
        end_ns=end_ns,
        requested=dict(requested),
        options={"mode": request.first_options.mode, **_options(request)},
        sampling=SamplingUsed(**_fields(request.sampling)),
        max_tokens=request.max_tokens,
        stop=tuple(request.stop),
        thinking=None if thinking is None else ThinkingUsed(**_fields(thinking)),
        policy=policy,
        runtime=runtime,
        versions=versions(),
        schema_formats=schema_formats,
        schema_sha256=schema_sha256,
        schema_valid=schema_valid,
        notes=tuple(notes),
        error=None if error is None else error_type(error),
        finish_reason=result.finish_reason if result else None,
        prompt_sha256=digests[0],
        output_sha256=digests[-1] if result else None,
        counts=_counts(result) if result else None,
        rounds=tuple([round_record(*part, reads) if content else bare_round(*part) for part in parts]),
        guarantee=guarantee,
    )
    if not content:
        return bare
    return replace(
        bare,
        prompt_ids=tuple(request.prompt),
        suffix_ids=getattr(request.options, "suffix", None),
        token_ids=result.token_ids if result else None,
        text=result.text if result else None,
        schema=schema,
        error_message=None if error is None else str(error),
        logprobs=None if logprobs is None else tuple(logprobs),
    )


def _options(request: DecodeRequest | ScoreRequest) -> dict[str, JsonValue]:
    """The mode's options; of token ids among them, which are content, the number."""
    return {name: len(v) if isinstance(v, tuple) else v for name, v in _fields(request.first_options).items()}


def _fields(flat: Any) -> dict[str, Any]:
    """`asdict` of a dataclass that holds plain values, without its copies: this runs for every call."""
    return {name: getattr(flat, name) for name in _names(flat.__class__)}


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """Of all that decoding depends on, read from package metadata, so that nothing is imported for it."""
    return {package: _version(package) for package in ("trimode", "torch", "tokenizers", "llguidance")}


def _counts(result: DecodeResult) -> Counts:
    return Counts(**{name: getattr(result.stats, name) for name in _names(Counts)})
