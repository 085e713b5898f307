"""What may be written down: the caller's rule reaches every place, and the size limit says what it cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from recorded_calls import letters

import trimode as tm
from trimode.policy.audit import content
from trimode.policy.audit.consistency import check_record
from trimode.policy.audit.content import SWITCH, clipped, newest
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.redaction import CHANGED, redacted_by, redacted_text
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls.engine import Engine
from trimode.policy.replay.decode_again import NO_CONTENT, nothing_to_replay
from trimode.policy.telemetry import attributes
from trimode.policy.telemetry.attributes import content_of, parts_of

Recorded = Callable[..., CallRecord]
SECRET = "hippopotamus"


def hide(text: str) -> str:
    return text.replace(SECRET, "[animal]")


@pytest.fixture
def everything(spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content in every sink; after `spans`, which switches it off."""
    assert not spans.get_finished_spans()
    monkeypatch.setenv(SWITCH, "SPAN_AND_EVENT")


@pytest.mark.usefixtures("everything")
def test_a_secret_in_the_prompt_reaches_neither_file_nor_spans(
    reference: Engine, spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}", redact=hide) as session:
        reference.generate(messages=[{"role": "user", "content": f"Feed the {SECRET}"}], max_tokens=8)
        reference.generate(messages=[{"role": "user", "content": "Feed the cat"}], max_tokens=8)
    hidden, kept = records(read_audit(path))
    assert verify(path) == []
    assert SECRET not in path.read_text()
    assert SECRET not in " ".join(span.to_json() for span in spans.get_finished_spans())
    assert session.results == []
    assert (hidden.has_content, hidden.notes, hidden.text is None) == (False, (CHANGED,), False)
    assert nothing_to_replay(hidden) == NO_CONTENT
    assert (kept.has_content, kept.notes) == (True, ())
    first = next(span for span in spans.get_finished_spans() if span.name.startswith("chat"))
    (shown,) = json.loads(str((first.attributes or {})["gen_ai.input.messages"]))
    assert shown["parts"][0]["content"] == "Feed the [animal]"


def test_a_secret_that_only_a_rejected_draft_spells_is_found(recorded: Recorded) -> None:
    record = recorded("linear_spec", schema=True)
    index = next(at for at, made in enumerate(record.rounds) if made.rejected)
    made = record.rounds[index]
    before = [token for one in record.rounds[:index] for token in one.tokens or ()]
    drafted = [token for token, _ in made.rejected if token is not None]
    secret = letters([*before[-1:], *(made.tokens or ())[: made.accepted], *drafted])
    assert secret not in (record.text or "")

    def rule(text: str) -> str:
        return text.replace(secret, "")

    kept = redacted_by(rule, record, letters)
    assert not kept.has_content
    assert all(part.rejected_text is None for part in kept.rounds)
    assert kept.text == record.text
    assert list(check_record(kept, 1)) == []


def test_a_rule_that_changes_nothing_costs_nothing(recorded: Recorded) -> None:
    record = recorded("diffusion", schema=True)
    assert redacted_by(lambda text: text, record, letters) is record
    assert redacted_by(None, record, letters) is record
    bare = record.redacted()
    assert redacted_by(lambda _: "", bare, letters) is bare


def test_a_rule_that_fails_costs_the_content_and_not_the_record(recorded: Recorded) -> None:
    def rule(text: str) -> str:
        raise KeyError(text)

    kept = redacted_by(rule, recorded("ar"), letters)
    assert (kept.has_content, kept.text) == (False, None)
    assert kept.notes == ("redacted: the caller's rule failed with KeyError, so no content is kept",)
    assert list(check_record(kept, 1)) == []
    assert redacted_text(rule, SECRET) == kept.notes[0]


@pytest.mark.usefixtures("everything")
def test_an_error_message_is_redacted(reference: Engine, spans: InMemorySpanExporter) -> None:
    with (
        tm.session(reference, policy=tm.Policy(), redact=lambda text: text.replace("5000", "many")),
        pytest.raises(tm.PromptTooLong, match="5000"),
    ):
        reference.generate("x", max_tokens=5000)
    (chat,) = spans.get_finished_spans()
    assert chat.status.description is not None
    assert "many" in chat.status.description
    assert "5000" not in chat.status.description


@given(st.text(max_size=40), st.integers(0, 30))
def test_clipped_text_says_how_much_is_missing(text: str, limit: int) -> None:
    kept, missing = clipped(text, limit)
    assert text.startswith(kept)
    assert len(kept) == min(len(text), limit)
    assert missing == ("" if kept == text else f"the last {len(text) - limit} of {len(text)} characters")


@given(st.lists(st.text(max_size=8), max_size=6), st.integers(1, 30))
def test_the_newest_messages_are_kept(texts: list[str], limit: int) -> None:
    kept, missing = newest(texts, limit)
    assert sum(map(len, kept)) <= limit
    assert bool(missing) == (kept != texts)
    if missing and "of the last message" not in missing:
        assert kept == texts[len(texts) - len(kept) :]
        assert missing == f"the first {len(texts) - len(kept)} of {len(texts)} messages"


def test_long_content_is_cut_and_told(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    record = recorded("linear_spec", schema=True)
    (whole,) = (content_of(part) for part in parts_of(record))
    assert whole["trimode.content.cut"] is None
    monkeypatch.setattr(attributes, "LIMIT", 200)
    monkeypatch.setattr(attributes, "clipped", lambda text: clipped(text, 200))
    (short,) = (content_of(part) for part in parts_of(record))
    runs = json.loads(str(whole["trimode.draft.rejected"]))
    kept = json.loads(str(short["trimode.draft.rejected"]))
    assert kept == runs[: len(kept)]
    assert 0 < len(kept) < len(runs)
    table = str(whole["output.value"])
    assert short["trimode.content.cut"] == (
        f"output.value: the last {len(table) - 200} of {len(table)} characters",
        f"trimode.draft.rejected: the last {len(runs) - len(kept)} of {len(runs)} runs of drafts",
    )


@pytest.mark.usefixtures("everything")
def test_a_long_conversation_is_cut_on_its_span(
    reference: Engine, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content.newest, "__defaults__", (20,))
    messages: list[dict[str, Any]] = [{"role": "user", "content": word * 9} for word in ("a", "b", "c")]
    reference.generate(messages=messages, max_tokens=1)
    found = dict(spans.get_finished_spans()[-1].attributes or {})
    texts = [message["parts"][0]["content"] for message in json.loads(str(found["gen_ai.input.messages"]))]
    assert texts == ["b" * 9, "c" * 9]
    assert found["trimode.content.cut"] == ("gen_ai.input.messages: the first 1 of 3 messages",)


def test_content_of_an_audit_file_is_its_own_choice(reference: Engine, tmp_path: Path) -> None:
    trail = tm.AuditFile(tmp_path / "audit.jsonl", content=True)
    with tm.session(reference, policy=tm.Policy(), trace=trail):
        reference.generate("x", max_tokens=1)
    assert records(read_audit(trail.path))[0].has_content
    with (
        pytest.raises(tm.PolicyError, match="pass content to the AuditFile"),
        tm.session(reference, policy=tm.Policy(), trace=trail, content=False),
    ):
        pass
