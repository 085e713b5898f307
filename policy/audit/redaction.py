"""A caller's own redaction function, applied to whole records and to single texts.

Knows records and one function from text to text. Does not know spans or files. A record in which the function changes
anything keeps the changed text, but no ids and no drafts, because token ids reveal the original text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from pydantic import JsonValue

from .decisions import asked_questions
from .host import HostRun
from .record import CallRecord
from .round_record import TextOf

Redact = Callable[[str], str]
"""Returns the text that may be kept. Called with prompts, outputs, drafts after their prefix, and tool results."""

CHANGED: Final = "redacted: the caller's rule changed this call's text, so no ids and no drafts are kept"
FAILED: Final = "redacted: the caller's rule failed with {}, so no content is kept"


def redacted_by(redact: Redact | None, record: CallRecord, text_of: TextOf) -> CallRecord:
    """Returns the record as it may be kept. Where `redact` raises, the record is kept without content."""
    if redact is None or not record.has_content:
        return record
    try:
        if all(redact(text) == text for text in _texts(record, text_of)):
            return record
        text = None if record.text is None else redact(record.text)
    except Exception as error:  # the caller's code
        return replace(record.redacted(), notes=(*record.notes, FAILED.format(type(error).__name__)))
    return replace(record.redacted(), text=text, notes=(*record.notes, CHANGED))


def redacted_text(redact: Redact | None, text: str) -> str:
    """Returns `text` as it may be kept; where `redact` raises, a message with the name of the error."""
    if redact is None:
        return text
    try:
        return redact(text)
    except Exception as error:  # the caller's code
        return FAILED.format(type(error).__name__)


def redacted_host(redact: Redact | None, host: HostRun) -> HostRun:
    """Returns a host's ids as they may be kept. A trace and a span are random numbers, and stay as they are."""
    given = {"run": host.run, "conversation": host.conversation, "agent": host.agent}
    return replace(host, **{name: redacted_text(redact, text) for name, text in given.items() if text})


def _texts(record: CallRecord, text_of: TextOf) -> Iterator[str]:
    """Yields every text of a record, each rejected draft after the prefix that it followed."""
    for ids in (record.prompt_ids, record.suffix_ids, *(record.lookup_ids or ())):
        yield text_of(ids or ())
    if record.remote is not None:
        yield from _strings(record.remote.request)
        yield from _strings(record.remote.answer)
    yield record.text or ""
    yield record.error_message or ""
    yield from (text_of(question.tokens) for question in asked_questions(record))
    done: list[int] = []
    for round_ in record.rounds:
        rejected = [token for token, _ in round_.rejected if token is not None]
        if rejected:
            yield text_of([*done, *(round_.tokens or ())[: round_.accepted], *rejected])
        done += round_.tokens or ()
    yield text_of(done)


def _strings(value: JsonValue) -> Iterator[str]:
    """Yields every string of a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
