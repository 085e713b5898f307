"""Our own audit file as recorded calls.

Knows records. Does not know files. A record holds the prompt's token ids and not its messages, so its calls can be
asked again where the same tokenizer is; tools are those of the recorded schema. Content is there where the session kept
it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from trimode.policy.audit import CallRecord
from trimode.policy.errors import SchemaError
from trimode.policy.schema import turn_of

from ..calls import Answer, RecordedCall, Times, ToolUse, Usage
from ..values import arguments, unpacked

Json = Any
NO_OUTPUT: Final = "the recorded call failed"
INFILL: Final = "gaps that were filled have no counterpart elsewhere"


def audit_calls(record: CallRecord, id: str) -> Iterator[RecordedCall | str]:
    """Yields the call of one record, or why it is left out."""
    if record.finish_reason is None:
        yield NO_OUTPUT
        return
    if record.suffix_ids is not None:
        yield INFILL
        return
    document: Any = record.schema
    turn = turn_of(document) if record.kind == "turn" and document is not None else None
    yield RecordedCall(
        id=id,
        kind=record.kind,
        step=record.step,
        loop=record.session or "",
        model=record.runtime.tokenizer_sha256,
        messages=_messages(record),
        prompt_ids=record.prompt_ids,
        tools=tuple(_tools(_union(record.kind, document))),
        choice=None if turn is None else turn.choice,
        parallel=None if turn is None else turn.parallel,
        schema=_answer_schema(record, document),
        settings=_settings(record),
        answer=_answer(record),
        times=_times(record),
        usage=_usage(record),
    )


def _messages(record: CallRecord) -> tuple[Mapping[str, Json], ...]:
    """Returns the messages of a call to a server, which alone have them."""
    asked = None if record.remote is None else record.remote.request
    found: Any = None if asked is None else asked.get("messages")
    return tuple(found or ())


def _settings(record: CallRecord) -> dict[str, Json]:
    """Returns what the call was decoded under, without what changes nothing, which a server might refuse."""
    sampling = record.sampling
    drawn = {"top_k": sampling.top_k, "top_p": sampling.top_p, "seed": sampling.seed} if sampling.temperature else {}
    said = {"top_k": 0, "top_p": 1.0, "stop": []}
    found = {"temperature": sampling.temperature, "max_tokens": record.max_tokens, "stop": list(record.stop), **drawn}
    return {name: value for name, value in found.items() if said.get(name) != value}


def _times(record: CallRecord) -> Times:
    first = record.counts.prefill_seconds if record.counts is not None else None
    if record.remote is not None:
        first = record.remote.first_seconds
    return Times(first=first, last=(record.end_ns - record.start_ns) / 1e9)


def _usage(record: CallRecord) -> Usage:
    counts = record.counts if record.remote is None else record.remote.reported
    if counts is None:
        return Usage()
    return Usage(
        input=counts.prompt_tokens,
        cached=counts.cached_tokens,
        output=counts.output_tokens,
        passes=counts.forward_passes,
    )


def _union(kind: str, document: Json) -> Json:
    """Returns the schema of one call of one of the tools, None where there are none."""
    if kind == "turn" and document is not None:
        return document["x-turn"]["calls"]
    return document if kind == "tool_call" else None


def _answer_schema(record: CallRecord, document: Json) -> Json:
    if record.kind == "turn":
        return None if document is None else document["x-turn"]["answer"]
    return None if record.kind == "tool_call" else document


def _tools(union: Json) -> Iterator[Mapping[str, Json]]:
    """Yields the tools of a recorded union of calls."""
    if not isinstance(union, Mapping):
        return
    for one in union.get("anyOf", [union]):
        parts = one["properties"]
        yield {"name": parts["name"]["const"], "description": "", "parameters": parts["arguments"]}


def _answer(record: CallRecord) -> Answer | None:
    if record.text is None:
        return None
    if record.kind == "tool_call":
        found = unpacked(record.text)
        return Answer(calls=(ToolUse(found["name"], found["arguments"]),)) if _is_call(found) else Answer(record.text)
    return _turn_answer(record) if record.kind == "turn" else Answer(record.text)


def _is_call(found: Json) -> bool:
    return isinstance(found, Mapping) and {"name", "arguments"} <= set(found)


def _turn_answer(record: CallRecord) -> Answer:
    """Returns prose and calls by the sections of the recorded rounds, or as a server gave them."""
    if record.remote is not None:
        told: Any = (record.remote.answer or {}).get("calls") or ()
        return Answer(record.text or "", tuple(ToolUse(one["name"], arguments(one["arguments"])) for one in told))
    document: Any = record.schema
    turn, texts = turn_of(document) if document is not None else None, dict[int, tuple[str, str]]()
    for round_ in record.rounds:
        number, kind = round_.section or (0, "prose")
        texts[number] = (kind, texts.get(number, (kind, ""))[1] + (round_.text or ""))
    prose = "".join(said for kind, said in texts.values() if kind in ("prose", "json"))
    if turn is None or turn.calls is None:
        return Answer(prose)
    try:
        calls: list[Any] = [
            call for kind, said in texts.values() if kind == "tool_call" for call in turn.calls_in(said)
        ]
    except SchemaError:
        return Answer(record.text or "")
    before = prose.split(turn.format.head.strip())[0] if calls and turn.format.head.strip() else prose
    return Answer(before.strip(), tuple(ToolUse(call["name"], call["arguments"]) for call in calls))
