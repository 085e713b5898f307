"""Consistency checks of what a record says about a call to a server: its digests, its counts, and its attempts.

Knows records. Does not know files. What the server reported cannot be checked against tokens, which nobody has; it is
checked against itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from .record import CallRecord
from .remote_record import RemoteUsed, Reported, answer_digest, request_digest

Check = tuple[str, object, object, str]
"""(field, expected, found, what was compared)"""


def remote_checks(record: CallRecord, remote: RemoteUsed) -> Iterator[Check]:
    """Yields the checks of a record with a remote part."""
    yield "rounds", 0, len(record.rounds), "rounds of a call that a server decoded"
    yield "counts", None, record.counts, "counts of ours for a call that a server decoded"
    if remote.request is not None:
        yield "prompt_sha256", request_digest(remote.request), record.prompt_sha256, "digest of the request"
        if record.text is not None and remote.answer is not None:
            expected = answer_digest(remote.request, record.text, remote.answer)
            yield "output_sha256", expected, record.output_sha256, "digest of request and answer"
    answered = [one.outcome == "answered" for one in remote.attempts]
    if answered and record.output_sha256 is not None:
        yield "remote.attempts", [False] * (len(answered) - 1) + [True], answered, "the last attempt alone answered"
        yield "remote.attempts", remote.pool, remote.attempts[-1].pool, "the pool that answered"
    yield from _reported_checks(remote.reported)


def _reported_checks(found: Reported) -> Iterator[Check]:
    if found.drafted is not None and found.accepted is not None:
        within = min(found.accepted, found.drafted)
        yield "remote.reported.accepted", within, found.accepted, "accepted within drafted"
    for total, name in ((found.drafted, "drafted"), (found.accepted, "accepted")):
        parts = getattr(found, f"{name}_per_step")
        if parts is not None and total is not None:
            yield f"remote.reported.{name}", sum(parts), total, f"{name} of the call against its steps"
    for name in ("cached_tokens",):
        part, whole = getattr(found, name), found.prompt_tokens
        if part is not None and whole is not None:
            yield f"remote.reported.{name}", min(part, whole), part, f"{name} within prompt_tokens"
