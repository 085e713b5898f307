"""A caller's own rule about what may be written down, applied to whole records and to single texts.

Knows records and one function from text to text. Does not know spans or files. Token ids say what text says: a record
in which the rule changes anything keeps no ids and no drafts, only its text as the rule left it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from .record import CallRecord
from .round_record import TextOf

Redact = Callable[[str], str]
"""Text in, the text that may be kept out. Called with prompts, outputs, drafts in their place and tool results."""

CHANGED: Final = "redacted: the caller's rule changed this call's text, so no ids and no drafts are kept"
FAILED: Final = "redacted: the caller's rule failed with {}, so no content is kept"


def redacted_by(redact: Redact | None, record: CallRecord, text_of: TextOf) -> CallRecord:
    """The record as it may be kept. A rule that raises costs the content of the record, never the record."""
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
    """`text` as it may be kept; a rule that raises leaves its error's name."""
    if redact is None:
        return text
    try:
        return redact(text)
    except Exception as error:  # the caller's code
        return FAILED.format(type(error).__name__)


def _texts(record: CallRecord, text_of: TextOf) -> Iterator[str]:
    """Everything of a record that someone could read, each draft behind the text that it followed."""
    for ids in (record.prompt_ids, record.suffix_ids):
        yield text_of(ids or ())
    yield record.text or ""
    yield record.error_message or ""
    done: list[int] = []
    for made in record.rounds:
        lost = [token for token, _ in made.rejected if token is not None]
        if lost:
            yield text_of([*done, *(made.tokens or ())[: made.accepted], *lost])
        done += made.tokens or ()
    yield text_of(done)
