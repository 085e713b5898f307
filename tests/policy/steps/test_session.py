"""What a session keeps, writes and shows: results, audit records, spans, and its borders between threads and tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Literal

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, use_span

import trimode as tm
from trimode.engine.result import Mode
from trimode.policy.audit.content import SWITCH
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls.engine import Engine
from trimode.policy.calls.scope import overrides
from trimode.policy.schema.targets import Schema
from trimode.policy.steps.sessions import current_session

SECRET = "hippopotamus"


@tm.step("json", max_tokens=24)
def unit(what: str) -> Literal["cm", "m"]:
    """In what unit is {what}?"""
    ...


@tm.step("prose", max_tokens=3)
async def say(text: str) -> str:
    """{text}"""
    ...


def written(path: Path) -> list[CallRecord]:
    assert verify(path) == []
    return records(read_audit(path))


def test_results_in_order(reference: Engine) -> None:
    with tm.session(reference, policy=tm.Policy()) as session:
        unit("the table")
        asyncio.run(say("Hello"))
    assert [kind for kind, _ in session.results] == ["json", "prose"]
    assert all(isinstance(result, tm.Result) for _, result in session.results)


@pytest.mark.parametrize("content", [None, False, True])
def test_audit_file_keeps_content_only_where_asked(
    reference: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bool | None
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    path = tmp_path / "runs" / "audit.jsonl"
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}", content=content) as session:
        unit(SECRET)
    (record,), ((_, result),) = written(path), session.results
    assert (record.step, record.kind, record.schema_valid) == ("unit", "json", True)
    assert record.call == result.audit_id
    assert record.policy.reason == "linear_spec: policy 'trimode' for json steps"
    assert record.has_content == bool(content)
    assert (record.text == result.text) == bool(content)
    assert SECRET not in path.read_text()
    assert result.text not in ("cm", "m")


def test_audit_file_grows_over_sessions(reference: Engine, tmp_path: Path) -> None:
    for _ in range(2):
        with tm.session(reference, policy=tm.Policy(), trace=f"file:{tmp_path / 'audit.jsonl'}"):
            unit("the table")
    assert len(written(tmp_path / "audit.jsonl")) == 2


@pytest.mark.parametrize("trace", ["audit.jsonl", "file:", "http://x", ""])
def test_unknown_trace_targets(reference: Engine, trace: str) -> None:
    with pytest.raises(tm.PolicyError, match="expected 'file:PATH'"), tm.session(reference, trace=trace):
        pass


def test_policy_of_a_file_of_the_folder_or_by_hand(
    reference: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with tm.session(reference) as session:
        assert session.policies == ()
    (tmp_path / "trimode.toml").write_text('name = "mine"\n[kinds.json]\nmode = "ar"\n')
    for policy in ("default", tmp_path / "trimode.toml", "trimode.toml"):
        with tm.session(reference, policy=policy):
            assert unit.result("the table").plan.reason == "ar: policy 'mine' (trimode.toml) for json steps"
    for wrong, message in (("fast", "unknown policy 'fast'"), ("none.toml", "cannot read policy")):
        with pytest.raises(tm.PolicyError, match=message), tm.session(reference, policy=wrong):
            pass


def test_nested_using_and_what_is_left_of_it(reference: Engine) -> None:
    with tm.session(reference, policy=tm.Policy()):
        with tm.using(mode="ar", seed=1):
            with tm.using(mode="diffusion"):
                plan = unit.result("the table").plan
                assert (plan.mode, plan.settings.seed) == ("diffusion", 1)
                assert plan.reason == "diffusion: using(mode='diffusion')"
            assert unit.result("the table").plan.reason == "ar: using(mode='ar', seed=1)"
        assert unit.result("the table").plan.mode == "linear_spec"
    assert overrides() == ()
    with pytest.raises(tm.PolicyError, match="unknown mode 'turbo'"), tm.using(mode="turbo"):  # type: ignore[arg-type]
        pass
    assert overrides() == ()


def test_using_gives_the_same_tokens_in_the_other_exact_mode(reference: Engine) -> None:
    with tm.session(reference, policy=tm.Policy()):
        with tm.using(mode="ar"):
            slow = unit.result("the table")
        with tm.using(mode="linear_spec"):
            fast = unit.result("the table")
    assert slow.token_ids == fast.token_ids


def test_threads_share_no_session(reference: Engine) -> None:
    seen: list[BaseException | str] = []

    def other() -> None:
        try:
            current_session()
        except tm.StepError as error:
            seen.append(error)
        with tm.session(reference, policy=tm.Policy()), tm.using(mode="ar"):
            seen.append(unit.result("the table").plan.mode)

    with tm.session(reference, policy=tm.Policy()) as mine, tm.using(mode="linear_spec"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert unit.result("the table").plan.mode == "linear_spec"
    assert isinstance(seen[0], tm.StepError)
    assert seen[1:] == ["ar"]
    assert len(mine.results) == 1


def test_tasks_have_their_own_overrides_and_share_the_session_around_them(reference: Engine) -> None:
    async def task(mode: Mode) -> str:
        with tm.using(mode=mode):
            await asyncio.sleep(0)
            return (await say.result("Hello")).plan.mode

    async def together() -> list[str]:
        modes: tuple[Mode, ...] = ("ar", "linear_spec", "ar")
        return list(await asyncio.gather(*map(task, modes)))

    with tm.session(reference, policy=tm.Policy()) as session:
        assert asyncio.run(together()) == ["ar", "linear_spec", "ar"]
    assert len(session.results) == 3
    assert overrides() == ()


def test_spans_nest_under_the_callers(reference: Engine, spans: InMemorySpanExporter) -> None:
    span = trace.get_tracer("test").start_span("agent turn")
    with use_span(span, end_on_exit=True), tm.session(reference, policy=tm.Policy()):
        result = unit.result(SECRET)
    found = {one.name: one for one in spans.get_finished_spans()}
    call, decode = found["chat trimode-reference"], found["decode linear_spec"]
    assert call.parent == span.get_span_context()
    assert decode.parent == call.context
    attributes = dict(call.attributes or {})
    assert attributes["trimode.audit.id"] == result.audit_id
    assert attributes["trimode.step.name"] == "unit"
    assert attributes["gen_ai.usage.output_tokens"] == len(result.token_ids)
    everything = " ".join(one.to_json() for one in spans.get_finished_spans())
    assert SECRET not in everything
    assert "gen_ai.input.messages" not in everything


def test_spans_hold_content_where_the_switch_says_so(
    reference: Engine, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "SPAN_ONLY")
    with tm.session(reference, policy=tm.Policy()):
        unit(SECRET)
    assert SECRET in " ".join(one.to_json() for one in spans.get_finished_spans())


def test_raw_prompts_are_spanned_too(reference: Engine, spans: InMemorySpanExporter) -> None:
    reference.generate(SECRET, max_tokens=1)
    (call,) = (one for one in spans.get_finished_spans() if one.name.startswith("chat"))
    assert SECRET not in call.to_json()


def test_refused_call_fails_its_span(reference: Engine, spans: InMemorySpanExporter) -> None:
    with pytest.raises(tm.RequestError):
        reference.generate(SECRET, max_tokens=0)
    (call,) = spans.get_finished_spans()
    assert call.status.status_code is StatusCode.ERROR
    assert dict(call.attributes or {})["error.type"] == "trimode.engine.errors.RequestError"
    assert SECRET not in call.to_json()


def test_error_after_decoding_is_in_span_and_audit(
    reference: Engine, spans: InMemorySpanExporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Schema, text: str) -> Any:
        raise tm.SchemaViolation(text, SECRET)

    monkeypatch.setattr(Schema, "parse", broken)
    path = tmp_path / "audit.jsonl"
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}") as session:
        with pytest.raises(tm.SchemaViolation):
            unit("the table")
        assert session.results == []
    (record,) = written(path)
    assert (record.error, record.schema_valid, record.finish_reason) == (
        "trimode.policy.errors.SchemaViolation",
        False,
        "stop",
    )
    assert record.counts is not None
    assert record.error_message is None
    assert SECRET not in path.read_text()
    (call,) = (one for one in spans.get_finished_spans() if one.name.startswith("chat"))
    assert call.status.status_code is StatusCode.ERROR
    assert SECRET not in call.to_json()


def test_error_in_decoding_is_in_the_audit(reference: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.jsonl"
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}"):
        with pytest.raises(tm.PromptTooLong):
            unit.options(max_tokens=5000)("the table")
        monkeypatch.setattr(reference.tokens, "submit", lambda *_: (_ for _ in ()).throw(MemoryError("out")))
        with pytest.raises(MemoryError):
            unit("the table")
    assert [(record.error, record.counts) for record in written(path)] == [
        ("trimode.engine.errors.PromptTooLong", None),
        ("MemoryError", None),
    ]


def test_a_session_in_an_async_generator_is_not_the_callers(reference: Engine) -> None:
    @tm.step
    async def said() -> str:
        """Say something."""
        ...

    async def agent() -> AsyncGenerator[str]:
        with tm.session(reference), tm.using(max_tokens=2):
            for _ in range(3):
                yield await said()

    async def run() -> None:
        async for _ in agent():
            with pytest.raises(tm.StepError, match="outside a session"):
                await said()
            break
        with pytest.raises(tm.StepError, match="outside a session"):
            await said()
        with tm.session(reference) as mine, tm.using(max_tokens=3):
            await said()
        assert [result.plan.settings.max_tokens for _, result in mine.results] == [3]

    asyncio.run(run())
