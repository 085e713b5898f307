"""A full disk under an audit file: the call fails by name, with its result in the error, and the file stays a trail.

A limit on the size of files stands for the full disk; it holds for a whole process, so that one is started. The
session's trail is long enough that the process's own, which is begun then, stays below the limit.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel, field_validator

import trimode as tm
from trimode.policy.audit import process_trails
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.trail import AuditFile, Head, read_audit, records, verify
from trimode.policy.errors import AuditWriteFailed
from trimode.testing import FakeEngine

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
SCRIPT = """
import asyncio, json, os, resource, sys
from contextlib import aclosing
import trimode as tm
from trimode.testing import FakeEngine

path = sys.argv[1]
engine = FakeEngine({"generate": "Good morning", "stream": "Good morning", "agenerate": "Good morning",
                     "astream": "Good morning", "infill": "morn", "odd": [7]})

@tm.step("prose", max_tokens=20, guarantee="checked", retries=2)
def odd() -> list[int]:
    "An odd number."

with tm.session(engine, trace=f"file:{path}", content=True):
    for _ in range(12):
        engine.generate("Hello", max_tokens=20)
size = os.path.getsize(path)
tm.trace(to=f"file:{path}.process")

def stream():
    for event in engine.stream("Hello", max_tokens=20):
        seen.append(event.text)

async def astream():
    async with aclosing(engine.astream("Hello", max_tokens=20)) as events:
        async for event in events:
            seen.append(event.text)

ways = {
    "sync": lambda: engine.generate("Hello", max_tokens=20),
    "async": lambda: asyncio.run(engine.agenerate("Hello", max_tokens=20)),
    "stream": stream,
    "astream": lambda: asyncio.run(astream()),
    "choice": lambda: engine.choice(["yes", "no"], "Well?"),
    "infill": lambda: engine.infill("Good ", "ing", max_tokens=8),
    "step": odd,
}
with tm.session(engine, trace=f"file:{path}", content=True, budget=tm.Budget(tokens=1000)) as session:
    for at, (way, call) in enumerate(ways.items()):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100 * (at % 2), resource.RLIM_INFINITY))
        seen, spent = [], session.spent.tokens
        try:
            call()
        except tm.AuditWriteFailed as error:
            result = error.result
            print(json.dumps({
                "path": str(error.path), "paths": [str(one) for one in error.paths], "text": result.text,
                "value": result.value, "id": [error.audit_id, result.audit_id], "why": error.why,
                "seen": "".join(seen), "spent": session.spent.tokens - spent, "tokens": len(result.token_ids),
                "message": str(error), "size": os.path.getsize(path), "way": way,
            }))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
with tm.session(engine, trace=f"file:{path}", content=True):
    engine.generate("Hello", max_tokens=20)
"""
TEXTS = dict.fromkeys(("sync", "async", "stream", "astream"), "Good morning") | {
    "choice": "yes",
    "infill": "morn",
    "step": "[7]",
}


def test_the_result_is_in_the_error_and_the_trail_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    ran = subprocess.run([sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, timeout=200)
    assert (ran.returncode, ran.stderr) == (0, "")
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {said["way"]: said["text"] for said in found} == TEXTS
    others = records(read_audit(f"{path}.process"))
    for said, other in zip(found, others[:-1], strict=True):
        assert (said["path"], said["paths"], said["why"]) == (str(path), [str(path)], "File too large")
        assert said["value"] == {"choice": "yes", "step": [7]}.get(said["way"], said["text"])
        assert said["id"] == [other.call] * 2, "the file that had room has the record"
        assert str(path) in said["message"]
        assert "error.result" in said["message"]
        assert said["spent"] == (0 if said["way"] == "choice" else said["tokens"]), "what was spent is counted, once"
        assert said["size"] == found[0]["size"]
    assert "".join(said["seen"] for said in found if said["way"] in ("stream", "astream"))
    assert verify(path) == verify(f"{path}.process") == []
    assert len(read_audit(path)) == 13


def test_a_session_on_a_device_is_refused_before_a_call(reference: tm.Engine) -> None:
    with pytest.raises(tm.AuditFileRefused, match="a character device"), tm.session(reference, trace="file:/dev/full"):
        pytest.fail("the session began")
    with pytest.raises(tm.AuditFileRefused, match="a character device"):
        tm.trace(to="file:/dev/full")
    assert reference.generate("x", max_tokens=1).text


class Full(AuditFile):
    """A file whose disk is always full."""

    def write(self, record: CallRecord) -> Head:
        raise AuditWriteFailed([self.path], "No space left on device", record.call) from OSError(28, "full")


@pytest.fixture
def full(tmp_path: Path) -> AuditFile:
    return Full(tmp_path / "audit.jsonl")


def test_every_file_that_failed_is_named(full: AuditFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Full(tmp_path / "other.jsonl")
    monkeypatch.setattr(process_trails, "_files", {other.path: other})
    with tm.session(FakeEngine(), trace=full) as session, pytest.raises(tm.AuditWriteFailed) as caught:
        session.engine.generate("x", max_tokens=20)
    assert (caught.value.path, caught.value.paths) == (full.path, (full.path, other.path))
    assert isinstance(caught.value.__cause__, OSError)


def test_what_went_wrong_in_the_call_is_not_forgotten(full: AuditFile) -> None:
    engine = FakeEngine({"generate": tm.QueueFull(1, 1, 1)})
    with tm.session(engine, trace=full), pytest.raises(tm.AuditWriteFailed) as caught:
        engine.generate("x", max_tokens=20)
    assert caught.value.result is None
    assert isinstance(caught.value.__context__, tm.QueueFull)
    assert "error.result" not in str(caught.value)


def test_an_interrupt_goes_on_with_a_note(full: AuditFile) -> None:
    def interrupted(_: object) -> str:
        raise KeyboardInterrupt

    engine = FakeEngine({"generate": interrupted})
    with tm.session(engine, trace=full), pytest.raises(KeyboardInterrupt) as caught:
        engine.generate("x", max_tokens=20)
    assert "No space left" in caught.value.__notes__[0]


def test_the_span_says_that_the_record_is_missing(full: AuditFile, spans: InMemorySpanExporter) -> None:
    engine = FakeEngine()
    with tm.session(engine, trace=full), pytest.raises(tm.AuditWriteFailed):
        engine.generate("x", max_tokens=20)
    (call,) = (span for span in spans.get_finished_spans() if span.name.startswith("chat"))
    assert (call.attributes or {})["error.type"] == "trimode.policy.errors.AuditWriteFailed"
    assert (call.attributes or {})["gen_ai.usage.output_tokens"]


def test_a_stream_left_early_and_a_cancelled_task_are_told_too(full: AuditFile, reference: tm.Engine) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(reference.agenerate("x", mode="ar", max_tokens=400))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with tm.session(reference, trace=full):
        stream = reference.stream("x", mode="ar", max_tokens=400)
        next(stream)
        with pytest.raises(tm.AuditWriteFailed):
            stream.close()
        with pytest.raises(tm.AuditWriteFailed) as caught:
            asyncio.run(cancelled())
    assert isinstance(caught.value.__context__, asyncio.CancelledError)


def test_an_attempt_that_broke_its_schema_is_in_the_error(full: AuditFile) -> None:
    class Even(BaseModel):
        number: int

        @field_validator("number")
        @classmethod
        def even(cls, number: int) -> int:
            if number % 2:
                raise ValueError("odd")
            return number

    engine = FakeEngine({"generate": {"number": 7}})
    with tm.session(engine, trace=full), pytest.raises(tm.AuditWriteFailed) as caught:
        engine.generate("x", schema=Even, guarantee="checked", retries=2, max_tokens=20)
    assert caught.value.result is not None
    assert (caught.value.result.valid, json.loads(caught.value.result.text)) == (False, {"number": 7})
