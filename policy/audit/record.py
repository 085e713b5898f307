"""The record of one call: what was requested, what ran, and how every output token came about.

Knows plain values only, so that records are read and written without a model. Does not know files or spans. Prompts,
outputs and drafts are content: `redacted` removes them and keeps counts, origins and digests, which still must add up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import ConfigDict, JsonValue

from .host import HostRun, ServedBy
from .remote_record import RemoteUsed
from .round_record import RoundRecord

StepKind = Literal["plan", "tool_call", "json", "prose", "choice", "turn"]

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyUsed:
    """The policy that chose the mode, and its reason."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    version: str
    sha256: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The engine that decoded the call; an exact replay needs an equal one. `hardware`: the part of the device's
    description that arithmetic depends on.

    `quantize`: how weights were rounded: "no", "int8", or "int8+head" if the LM head was too. `exactness`: whether a
    row's result is independent of the other rows in its pass, which exact modes require: "checked" when the engine was
    loaded, "not promised" (kernels torch-fast), "not checked" (interpreted kernels), "unknown" in older records.
    `adapter`: the draft adapter that was loaded for the model, with the digest of its files; both empty where there is
    none but that of the checkpoint itself.
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
    adapter: str = ""
    adapter_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingUsed:
    """The token id that ends thinking, and the number of tokens after which it was forced."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    end: int
    budget: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingUsed:
    """The sampling settings. `logit_bias`: pairs of token id and bias; none in older records."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    temperature: float
    top_k: int
    top_p: float
    seed: int
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The engine's counts of the call. `corrected` includes `repaired`; `forward_passes` excludes prefill."""

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
    """One call. `requested`: mode and options as the caller gave them; `options`: those that the call started with (a
    switch of the mode is in the rounds); `notes`: every other difference.

    `session` and `agent`: the session's id and agent name, None outside a session. `host`: the run of another program
    around the call, None where there is none, and in older records. `counts`, `finish_reason` and
    `output_sha256` are None where the engine gave no result. `guarantee`: how the schema was enforced. `logprobs`: of a
    choice, one for each candidate, in nats; of a decision, a choice with `questions` in its `options`, those of all
    questions in order. A decision's `schema` is its questions, with token ids. `lookup_ids`: earlier outputs from which
    lookup_spec could copy its drafts. `served`: the replica, None where one process serves. `remote`: of a call to a
    server, which has no ids, rounds and `counts` of ours; its digests are those of the request and the answer as JSON.
    The last block of fields is content.
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
    host: HostRun | None = None
    remote: RemoteUsed | None = None
    served: ServedBy | None = None

    prompt_ids: tuple[int, ...] | None = None
    suffix_ids: tuple[int, ...] | None = None
    lookup_ids: tuple[tuple[int, ...], ...] | None = None
    token_ids: tuple[int, ...] | None = None
    text: str | None = None
    schema: JsonValue = None
    error_message: str | None = None
    logprobs: tuple[float, ...] | None = None

    @property
    def has_content(self) -> bool:
        return self.prompt_ids is not None or (self.remote is not None and self.remote.request is not None)

    def redacted(self) -> CallRecord:
        """Returns the record without content; it still verifies."""
        if not self.has_content:
            return self
        return replace(
            self,
            rounds=tuple(part.redacted() for part in self.rounds),
            remote=None if self.remote is None else self.remote.redacted(),
            prompt_ids=None,
            suffix_ids=None,
            lookup_ids=None,
            token_ids=None,
            text=None,
            schema=None,
            error_message=None,
            logprobs=None,
        )
