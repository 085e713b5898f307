"""The host's run in the record: ids that an adapter names, the span around the call, redaction, and what shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from typer.testing import CliRunner

import trimode as tm
from trimode.integrations.cli import app as cli
from trimode.integrations.frameworks.core.ask import Ask
from trimode.policy.audit.diff import diff_calls
from trimode.policy.audit.host import HostRun
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls.fake_engine import FakeEngine
from trimode.policy.calls.scope import inside_host
from trimode.policy.telemetry.attributes import record_attributes

RUN = HostRun(framework="loops", run="run-0001", conversation="mail@example.org", agent="helper")
PROVIDER = TracerProvider(shutdown_on_exit=False)
ENGINE = FakeEngine()


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def record_of(trail: Path) -> CallRecord:
    (record,) = records(read_audit(trail))
    assert verify(trail) == []
    return record


def test_an_adapter_names_the_run(trail: Path) -> None:
    with tm.session(ENGINE, trace=f"file:{trail}"):
        Ask(messages=[{"role": "user", "content": "hello"}], host=RUN).generate(ENGINE)
    assert record_of(trail).host == RUN


def test_streams_keep_the_run_of_their_beginning(trail: Path) -> None:
    with tm.session(ENGINE, trace=f"file:{trail}"):
        pieces = Ask(messages=[{"role": "user", "content": "hello"}], host=RUN).stream(ENGINE)
    with inside_host(HostRun(run="another")):
        assert [*pieces]
    assert record_of(trail).host == RUN


def test_without_a_host_there_is_none(trail: Path) -> None:
    with tm.session(ENGINE, trace=f"file:{trail}"):
        ENGINE.generate("hello")
    assert record_of(trail).host is None


def test_the_span_around_the_call(trail: Path) -> None:
    """Its ids, and its conversation where nobody named one."""
    tracer = PROVIDER.get_tracer("host")
    with (
        tm.session(ENGINE, trace=f"file:{trail}"),
        tracer.start_as_current_span("turn", attributes={"gen_ai.conversation.id": "thread 7"}) as span,
    ):
        ENGINE.generate("hello")
        with inside_host(RUN):
            ENGINE.generate("hello")
    first, second = (record.host for record in records(read_audit(trail)))
    assert first is not None
    assert second is not None
    at = span.get_span_context()
    assert (first.trace, first.span) == (f"{at.trace_id:032x}", f"{at.span_id:016x}")
    assert (first.conversation, second.conversation) == ("thread 7", RUN.conversation)


def test_ids_are_kept_without_content_and_redacted_by_rule(trail: Path) -> None:
    def rule(text: str) -> str:
        return text.replace("mail@example.org", "[mail]")

    with tm.session(ENGINE, trace=f"file:{trail}", redact=rule), inside_host(RUN):
        ENGINE.generate("hello")
    host = record_of(trail).host
    assert host is not None
    assert (host.run, host.conversation) == (RUN.run, "[mail]")


def test_a_rule_that_fails_costs_the_ids(trail: Path) -> None:
    def rule(text: str) -> str:
        raise KeyError(text)

    with tm.session(ENGINE, trace=f"file:{trail}", redact=rule), inside_host(RUN):
        ENGINE.generate("hello")
    assert RUN.run not in trail.read_text()
    assert RUN.conversation not in trail.read_text()


def test_spans_have_the_run(trail: Path) -> None:
    with tm.session(ENGINE, trace=f"file:{trail}"), inside_host(RUN):
        ENGINE.generate("hello")
    attributes = record_attributes(record_of(trail))
    assert attributes["gen_ai.conversation.id"] == RUN.conversation
    assert attributes["trimode.host.run"] == RUN.run


def test_the_same_call_in_another_run_is_no_difference(trail: Path) -> None:
    with tm.session(ENGINE, trace=f"file:{trail}"):
        for host in (RUN, HostRun()):
            with inside_host(host):
                ENGINE.generate("hello", seed=1)
    first, second = records(read_audit(trail))
    assert diff_calls(first, second).differences == ()


def test_an_edited_run_is_found(trail: Path) -> None:
    with tm.session(ENGINE, trace=f"file:{trail}"), inside_host(RUN):
        ENGINE.generate("hello")
    trail.write_text(trail.read_text().replace("run-0001", "run-0002"))
    assert [problem.field for problem in verify(trail)] == ["sha256"]


@pytest.mark.parametrize("part", ["run-0001", "run-", "0001", "mail@"])
def test_show_lists_one_run(trail: Path, part: str) -> None:
    with tm.session(ENGINE, trace=f"file:{trail}"):
        ENGINE.generate("before")
        with inside_host(RUN):
            ENGINE.generate("hello")
    runner = CliRunner()
    (shown,) = json.loads(runner.invoke(cli.app, ["audit", "show", str(trail), "--run", part, "--json"]).output)
    assert HostRun(**shown["record"]["host"]) == RUN
    table = runner.invoke(cli.app, ["audit", "show", str(trail), "--run", part], env={"COLUMNS": "200"}).output
    assert "run-0001" in table
    assert len([line for line in table.splitlines() if "generate" in line]) == 1


def test_show_of_an_unknown_run(trail: Path) -> None:
    with tm.session(ENGINE, trace=f"file:{trail}"):
        ENGINE.generate("hello")
    found = CliRunner().invoke(cli.app, ["audit", "show", str(trail), "--run", "nobody"])
    assert found.exit_code == 1
    assert "begins or ends with 'nobody'" in str(found.exception)
