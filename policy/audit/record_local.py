"""The record of a call that an engine of this process decoded.

Knows plain values, and requests and results of the engine. Does not know files or spans.

Each digest covers the prompt and the output up to its point, because the digest of a one-token round alone could be
looked up by trying every token. Whoever has the prompt, the model and the seed can decode the output again anyway.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Unpack

from pydantic import JsonValue

from .call_facts import CallFacts, error_text, shared_fields
from .digests import sequence_digests
from .record import CallRecord, Counts, SamplingUsed, ThinkingUsed
from .round_record import PieceOf, TextOf, bare_round, record_round

if TYPE_CHECKING:
    from trimode.engine.request import DecodeRequest
    from trimode.engine.result import DecodeResult
    from trimode.engine.scoring import QuestionsRequest, ScoreRequest


def record_call(
    *,
    request: DecodeRequest | ScoreRequest | QuestionsRequest,
    result: DecodeResult | None,
    text_of: TextOf | None = None,
    piece_of: PieceOf | None = None,
    **facts: Unpack[CallFacts],
) -> CallRecord:
    """Returns the full record; sinks that keep no content redact it. `text_of` decodes token ids, and adds the text of
    each round and rejected token.

    `piece_of`: a cheaper `text_of` for one token. `content=False` builds what `redacted` returns, for callers that keep
    no more.
    """
    content = facts.get("content", True)
    rounds, thinking = result.rounds if result else (), getattr(request, "thinking", None)
    digests = sequence_digests(request.prompt, (part.tokens for part in rounds))
    decoders = None if text_of is None else (text_of, piece_of or (lambda token: text_of((token,))))
    parts = zip(rounds, digests[1:], strict=True)
    bare = CallRecord(
        **shared_fields(facts),
        options={"mode": request.first_options.mode, **_options(request)},
        sampling=SamplingUsed(**_fields(request.sampling)),
        max_tokens=request.max_tokens,
        stop=tuple(request.stop),
        thinking=None if thinking is None else ThinkingUsed(**_fields(thinking)),
        finish_reason=result.finish_reason if result else None,
        prompt_sha256=digests[0],
        output_sha256=digests[-1] if result else None,
        counts=_counts(result) if result else None,
        rounds=tuple([record_round(*part, decoders) if content else bare_round(*part) for part in parts]),
    )
    if not content:
        return bare
    logprobs = facts.get("logprobs")
    return replace(
        bare,
        prompt_ids=tuple(request.prompt),
        suffix_ids=getattr(request.options, "suffix", None),
        lookup_ids=getattr(request, "lookup", ()) or None,
        token_ids=result.token_ids if result else None,
        text=result.text if result else None,
        schema=facts.get("schema"),
        error_message=error_text(facts),
        logprobs=None if logprobs is None else tuple(logprobs),
    )


def _options(request: DecodeRequest | ScoreRequest | QuestionsRequest) -> dict[str, JsonValue]:
    """Returns the mode's options; token ids among them are content, so only their number is kept."""
    return {name: len(v) if isinstance(v, tuple) else v for name, v in _fields(request.first_options).items()}


def _fields(flat: Any) -> dict[str, Any]:
    """Returns `asdict` of a dataclass with plain values, without copying them, because this runs for every call."""
    return {name: getattr(flat, name) for name in _names(flat.__class__)}


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _counts(result: DecodeResult) -> Counts:
    return Counts(**{name: getattr(result.stats, name) for name in _names(Counts)})
