"""Records as span attributes, by one function for each group of keys. A value of None means that the key is left out.

Knows records and names. Does not know tracers or spans.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Final

from opentelemetry.util.types import AttributeValue
from pydantic import JsonValue

from ..audit import LIMIT, CallRecord, Counts, HostRun, RoundRecord, clipped
from . import names
from .round_table import markdown, summary, tape

Attributes = dict[str, AttributeValue | None]
_INT64: Final = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Consecutive rounds of one mode with the same options, of one segment of a turn. `first`: the number of the first
    round.

    `before`: the mode before the switch, None in the first part; it may be the same mode with other options. `why`: the
    switch's reason. `estimated`: whether the times are shares of the call's time.
    """

    mode: str
    rounds: tuple[RoundRecord, ...]
    first: int
    before: str | None
    why: str
    section: tuple[int, str] | None
    start_ns: int
    end_ns: int
    estimated: bool


def parts_of(record: CallRecord) -> Iterator[Part]:
    """Yields the parts of a call. The decoding time after prefill is divided in proportion to forward passes, because
    rounds carry no times."""
    if record.counts is None:
        return
    switches = accumulate(bool(round_.switch) for round_ in record.rounds)
    numbered = groupby(zip(switches, record.rounds, strict=True), key=lambda pair: (pair[0], pair[1].mode))
    runs = [(mode, tuple(round_ for _, round_ in rounds)) for (_, mode), rounds in numbered]
    begin, end = _window(record, record.counts)
    whole = sum(round_.forward_passes for round_ in record.rounds) or 1
    first, passes, before = 0, 0, None
    for mode, rounds in runs:
        done = passes + sum(round_.forward_passes for round_ in rounds)
        yield Part(
            mode=mode,
            rounds=rounds,
            first=first,
            before=before,
            why=rounds[0].switch,
            section=rounds[0].section,
            start_ns=begin + (end - begin) * passes // whole,
            end_ns=begin + (end - begin) * done // whole,
            estimated=len(runs) > 1,
        )
        first, passes, before = first + len(rounds), done, mode


def _window(record: CallRecord, counts: Counts) -> tuple[int, int]:
    begin = record.start_ns + int(counts.prefill_seconds * 1e9)
    end = min(record.end_ns, record.start_ns + int(counts.seconds * 1e9))
    return min(begin, end), end


def record_attributes(record: CallRecord) -> Attributes:
    """Returns the attributes of the inference span: request, outcome, and what a replay needs."""
    return _request(record) | _outcome(record) | _provenance(record) | _remote(record) | _host(record.host or HostRun())


def _request(record: CallRecord) -> Attributes:
    sampling = record.sampling
    fits = sampling.seed < _INT64
    structured = record.kind != "choice" and (record.schema_sha256 is not None or record.kind in ("json", "tool_call"))
    return {
        names.GEN_AI_REQUEST_SEED: sampling.seed if fits else None,
        names.REQUEST_SEED: None if fits else str(sampling.seed),
        names.GEN_AI_REQUEST_TEMPERATURE: float(sampling.temperature),
        names.GEN_AI_REQUEST_TOP_P: float(sampling.top_p),
        names.GEN_AI_REQUEST_TOP_K: sampling.top_k or None,
        names.GEN_AI_REQUEST_MAX_TOKENS: record.max_tokens,
        names.GEN_AI_REQUEST_STOP_SEQUENCES: record.stop or None,
        names.GEN_AI_OUTPUT_TYPE: "json" if structured else "text",
    }


def _outcome(record: CallRecord) -> Attributes:
    selection = record.options.get("selection")
    counts = record.counts if record.remote is None else record.remote.reported
    return {
        names.GEN_AI_RESPONSE_ID: record.call,
        names.GEN_AI_RESPONSE_MODEL: record.runtime.model if record.remote is None else record.remote.model,
        names.GEN_AI_RESPONSE_FINISH_REASONS: (record.finish_reason,) if record.finish_reason else None,
        names.GEN_AI_USAGE_INPUT_TOKENS: counts.prompt_tokens if counts else None,
        names.GEN_AI_USAGE_OUTPUT_TOKENS: counts.output_tokens if counts else None,
        names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: counts.cached_tokens if counts else None,
        names.PREFILL_PASSES: record.counts.prefill_passes if record.counts else None,
        names.DECODE_MODES: _modes(record) or None,
        names.DECODE_REASON: record.policy.reason,
        names.BLOCK_SELECTION: selection if isinstance(selection, str) else None,
        names.SCHEMA_SHA256: record.schema_sha256,
        names.SCHEMA_VALID: record.schema_valid,
        names.SCHEMA_GUARANTEE: record.guarantee,
        names.NOTES: record.notes or None,
    }


def _provenance(record: CallRecord) -> Attributes:
    return {
        names.POLICY_NAME: record.policy.name,
        names.POLICY_VERSION: record.policy.version,
        names.POLICY_SHA256: record.policy.sha256,
        names.MODEL_SHA256: record.runtime.model_sha256,
        names.ADAPTER_NAME: record.runtime.adapter or None,
        names.ADAPTER_SHA256: record.runtime.adapter_sha256 or None,
        names.TOKENIZER_SHA256: record.runtime.tokenizer_sha256,
        names.PROMPT_SHA256: record.prompt_sha256,
        names.OUTPUT_SHA256: record.output_sha256,
        names.DEVICE: record.runtime.device,
        names.DTYPE: record.runtime.dtype,
        names.KERNELS: record.runtime.kernels,
        names.EXACTNESS: record.runtime.exactness,
        names.QUANTIZE: None if record.runtime.quantize == "no" else record.runtime.quantize,
    }


def _modes(record: CallRecord) -> tuple[str, ...]:
    """Returns the modes that decoded; of a server's answer the mode of its pool."""
    if record.remote is not None and record.finish_reason is not None:
        return (str(record.options["mode"]),)
    return tuple(dict.fromkeys(round_.mode for round_ in record.rounds))


def _remote(record: CallRecord) -> Attributes:
    """Returns who answered and what it reported of drafts; what it did not report is left out, as is what only an
    engine in the process knows."""
    if (used := record.remote) is None:
        return {}
    told = used.reported
    both = told.drafted is not None and told.accepted is not None
    absent = (names.MODEL_SHA256, names.TOKENIZER_SHA256, names.OUTPUT_SHA256, names.EXACTNESS, names.DTYPE)
    return {
        **dict.fromkeys(absent),
        names.REMOTE_POOL: used.pool,
        names.REMOTE_KIND: used.kind,
        names.REMOTE_METHOD: used.method or None,
        names.REMOTE_VERSION: used.version,
        names.REMOTE_EXACTNESS: used.exactness,
        names.REMOTE_SCORES: used.scores,
        names.REMOTE_ANSWER_SHA256: record.output_sha256,
        names.REMOTE_ATTEMPTS: tuple(f"{one.pool}: {one.outcome}" for one in used.attempts) or None,
        names.FORWARD_PASSES: told.forward_passes,
        names.DRAFT_PROPOSED_TOKENS: told.drafted,
        names.DRAFT_ACCEPTED_TOKENS: told.accepted,
        names.DRAFT_REJECTED_TOKENS: (told.drafted or 0) - (told.accepted or 0) if both else None,
        names.DRAFT_ACCEPTANCE_RATE: (told.accepted or 0) / told.drafted if both and told.drafted else None,
        names.DRAFT_PROPOSED: told.drafted_per_step,
        names.DRAFT_ACCEPTED: told.accepted_per_step,
    }


def _host(host: HostRun) -> Attributes:
    return {
        names.GEN_AI_CONVERSATION_ID: host.conversation or None,
        names.HOST_FRAMEWORK: host.framework or None,
        names.HOST_RUN: host.run or None,
    }


def decode_attributes(part: Part) -> Attributes:
    """Returns the attributes of a decode span, without content."""
    proposed, accepted = [round_.drafted for round_ in part.rounds], [round_.accepted for round_ in part.rounds]
    origins, passes = (
        "".join([round_.origins for round_ in part.rounds]),
        sum([round_.forward_passes for round_ in part.rounds]),
    )
    tokens, drafts = len(origins), sum(proposed) > 0
    return {
        names.OPENINFERENCE_SPAN_KIND: "CHAIN",
        names.DECODE_MODE: part.mode,
        names.SEGMENT_INDEX: None if part.section is None else part.section[0],
        names.SEGMENT_KIND: None if part.section is None else part.section[1],
        names.OUTPUT_TOKENS: tokens,
        names.FORWARD_PASSES: passes,
        names.TOKENS_PER_FORWARD: tokens / passes if passes else None,
        names.CORRECTED_TOKENS: origins.count("c") + origins.count("r"),
        names.FORCED_TOKENS: origins.count("f") + origins.count("b"),
        names.BUDGET_TOKENS: origins.count("b") or None,
        names.REPAIRED_TOKENS: origins.count("r"),
        names.DRAFT_PROPOSED_TOKENS: sum(proposed),
        names.DRAFT_ACCEPTED_TOKENS: sum(accepted),
        names.DRAFT_REJECTED_TOKENS: sum(proposed) - sum(accepted),
        names.DRAFT_ACCEPTANCE_RATE: sum(accepted) / sum(proposed) if drafts else None,
        names.DRAFT_PROPOSED: proposed if drafts else None,
        names.DRAFT_ACCEPTED: accepted if drafts else None,
        names.DRAFT_TAPE: tape(part.rounds) if drafts else None,
        names.BLOCK_STEPS: [len(round_.fills) for round_ in part.rounds if round_.fills] or None,
        names.SWITCH_FROM: part.before,
        names.SWITCH_TO: part.mode if part.before else None,
        names.SWITCH_REASON: part.why or None,
        names.TIMES_ESTIMATED: part.estimated or None,
    }


def choice_attributes(record: CallRecord, content: bool) -> Attributes:
    """Returns the number of a choice's candidates, or of a decision's questions, and, with `content`, the scores of all
    candidates; nothing for other calls."""
    if record.kind != "choice":
        return {}
    count, asked = record.options.get("candidates"), record.options.get("questions")
    return {
        names.DECISION_QUESTIONS: asked if isinstance(asked, int) else None,
        names.CHOICE_CANDIDATES: count if isinstance(count, int) else None,
        names.CHOICE_LOGPROBS: record.logprobs if content else None,
    }


def content_of(part: Part) -> Attributes:
    """Returns the content of the decode span, within the size limit, under the keys that trace viewers show first."""
    rejected, missing = _fitting([json.dumps(run, ensure_ascii=False) for run in _rejected(part)])
    view, cut = clipped(markdown(part.rounds, part.first))
    about = {"mode": part.mode, "rounds": len(part.rounds), "tape": tape(part.rounds)}
    cuts = {names.OUTPUT_VALUE: cut, names.DRAFT_REJECTED: missing}
    return {
        names.INPUT_VALUE: summary(part.mode, part.rounds),
        names.OUTPUT_VALUE: view,
        names.METADATA: json.dumps(about),
        names.DRAFT_REJECTED: f"[{', '.join(rejected)}]" if rejected else None,
        names.CONTENT_CUT: tuple(f"{key}: {cut}" for key, cut in cuts.items() if cut) or None,
    }


def _rejected(part: Part) -> Iterator[list[JsonValue]]:
    """Yields [round, token ids, text, reason, instead] for each run of rejected drafts with the same reason."""
    for number, round_ in enumerate(part.rounds, start=part.first):
        texts = round_.rejected_text or ("",) * len(round_.rejected)
        probabilities = round_.instead or (None,) * len(round_.rejected)
        drafts = zip(round_.rejected, texts, probabilities, strict=True)
        for why, group in groupby(drafts, key=lambda draft: draft[0][1]):
            run = list(group)
            yield [number, [token for (token, _), _, _ in run], "".join(text for _, text, _ in run), why, run[0][2]]


def _fitting(runs: list[str]) -> tuple[list[str], str]:
    """Returns the first runs that fit the size limit, and a description of what is missing, "" if nothing is."""
    kept = sum(length <= LIMIT for length in accumulate(len(run) + 2 for run in runs))
    return runs[:kept], "" if kept == len(runs) else f"the last {len(runs) - kept} of {len(runs)} runs of drafts"


def message_json(role: str, text: str) -> dict[str, JsonValue]:
    """Returns a message in the form of OpenTelemetry's GenAI convention."""
    return {"role": role, "parts": [{"type": "text", "content": text}]}
