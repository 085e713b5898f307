"""What the audit server answers: calls, problems and reasons as plain values, bounded in number and length.

Knows records. Does not know MCP or paths. Text of prompts and outputs is in no answer unless `content` asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from trimode.policy.audit import CallRecord, Head, read_audit, records, verify
from trimode.policy.errors import PolicyError, shown

ROWS: Final = 50
"""Rows of one answer."""
LENGTH: Final = 20_000
"""Characters of an answer, as JSON."""
TEXT: Final = 500
"""Characters of one text."""


def show(path: Path, first: int, run: str, content: bool) -> dict[str, Any]:
    """Returns calls from number `first` on: counts, modes and outcome of each. `run`: those of one host's run alone."""
    lines = read_audit(path)
    calls = [(number, one) for number, one in enumerate(records(lines), start=1) if not run or _is_in(one, run)]
    rows = [_call(number, one, content) for number, one in calls if number >= first]
    unread = sum(line.entry is None for line in lines)
    return _bounded({"calls_in_all": len(calls), "lines_that_cannot_be_read": unread}, "calls", rows)


def verified(path: Path, head: str) -> dict[str, Any]:
    """Returns the problems of a file; `intact` says that there are none. Raises PolicyError for a head that is none."""
    found = verify(path, Head.parse(head) if head else None)
    rows = [{name: _short(str(value)) for name, value in asdict(one).items()} for one in found]
    return _bounded({"intact": not found, "lines": len(read_audit(path))}, "problems", rows)


def explain(path: Path, call: str, content: bool) -> dict[str, Any]:
    """Returns why one call was decoded as it was, and its rounds. `call`: its number, or the beginning of its id."""
    from trimode.policy.replay import explained

    numbered = [*enumerate(records(read_audit(path)), start=1)]
    chosen = [pair for pair in numbered if call == str(pair[0])]
    chosen = chosen or [pair for pair in numbered if pair[1].call.startswith(call)]
    if not call or len(chosen) != 1:
        raise PolicyError(f"{len(chosen)} calls are numbered or begin with {shown(call)}; audit_show lists them")
    number, record = chosen[0]
    why = explained([record])[0]
    about = _call(number, record, content) | {
        "reason": _short(why.reason),
        "policy": f"{record.policy.name} {record.policy.version}",
        "switches": [_short(one) for one in why.switches[:ROWS]],
        "requested": record.requested,
        "options": record.options,
        "decoded_by": f"{record.runtime.model} on {record.runtime.device}, {record.runtime.kernels}",
    }
    return _bounded(about, "rounds", [_round(index, record, content) for index in range(len(record.rounds))])


def _is_in(record: CallRecord, run: str) -> bool:
    return record.host is not None and record.host.is_named(run)


def _call(number: int, record: CallRecord, content: bool) -> dict[str, Any]:
    counts = record.counts
    found: dict[str, Any] = {
        "number": number,
        "id": record.call,
        "step": _short(record.step),
        "kind": record.kind,
        "host": str(record.host or ""),
        "modes": list(dict.fromkeys(one.mode for one in record.rounds)) or [str(record.options.get("mode", ""))],
        "finish": record.error or record.finish_reason,
        "schema_valid": record.schema_valid,
        "notes": [_short(note) for note in record.notes[:ROWS]],
    }
    if counts is not None:
        names = ("output_tokens", "forward_passes", "drafted", "accepted", "forced", "repaired")
        found |= {name: getattr(counts, name) for name in names}
    return found | {"text": _short(record.text)} if content and record.text is not None else found


def _round(index: int, record: CallRecord, content: bool) -> dict[str, Any]:
    """Returns one round: provenance codes of its tokens, and how many drafts were rejected for each reason."""
    round_ = record.rounds[index]
    reasons = [reason for _, reason in round_.rejected]
    found: dict[str, Any] = {
        "round": index,
        "mode": round_.mode,
        "origins": _short(round_.origins),
        "drafted": round_.drafted,
        "accepted": round_.accepted,
        "rejected": {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
    }
    return found | {"text": _short(round_.text)} if content and round_.text is not None else found


def _short(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[:TEXT]}... ({len(text) - TEXT} more characters)"


def _bounded(about: dict[str, Any], name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns an answer with as many rows as its bounds allow, and the number of rows that it leaves out."""
    kept, left = list[dict[str, Any]](), LENGTH - len(json.dumps(about))
    for row in rows[:ROWS]:
        left -= len(json.dumps(row))
        if left < 0:
            break
        kept.append(row)
    return {**about, name: kept, "left_out": len(rows) - len(kept)}
