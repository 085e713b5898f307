"""Trails of several replicas as one: each call of the last attempt once, in the order of time, and sealed anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_calls import Recorded
from typer.testing import CliRunner

from trimode.integrations.cli.app import app
from trimode.policy.audit import AuditFile, CallRecord, ServedBy, merged, read_audit, records, verify, write_merged
from trimode.policy.errors import AuditFileRefused, TrailsNotMerged

Write = Callable[[str, Sequence[CallRecord]], Path]


def served(record: CallRecord, at: int, request: str, attempt: int = 1, choice: int = 0) -> CallRecord:
    by = ServedBy(request=request, choice=choice, attempt=attempt, replica=f"r{attempt}", why="home of the session")
    return replace(record, call=f"{request}-{choice}-{attempt}", start_ns=at, end_ns=at + 1, served=by)


@pytest.fixture
def one(recorded: Recorded) -> CallRecord:
    return recorded("linear_spec")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, calls: Sequence[CallRecord]) -> Path:
        trail = AuditFile(tmp_path / name, content=True)
        for call in calls:
            trail.write(call)
        return trail.path

    return written


def test_calls_stand_in_the_order_in_which_they_began(write: Write, one: CallRecord, tmp_path: Path) -> None:
    a = write("a", [served(one, 1, "x"), served(one, 4, "y")])
    b = write("b", [served(one, 2, "z"), replace(one, call="alone", start_ns=3)])
    found = merged([a, b])
    head = write_merged(found, tmp_path / "all")
    assert [record.call for record in found.records] == ["x-0-1", "z-0-1", "alone", "y-0-1"]
    assert verify(tmp_path / "all", head) == []
    assert tuple(records(read_audit(tmp_path / "all"))) == found.records


def test_of_a_call_that_was_decoded_again_the_last_attempt_stays(write: Write, one: CallRecord) -> None:
    lost = write("lost", [served(one, 1, "x"), served(one, 1, "x", choice=1)])
    other = write("other", [served(one, 2, "x", attempt=2), served(one, 3, "y")])
    found = merged([lost, other])
    assert [record.call for record in found.records] == ["x-1-1", "x-0-2", "y-0-1"]
    assert [record.call for record in found.replaced] == ["x-0-1"]


def test_a_call_that_stands_in_two_files_is_merged_once(write: Write, one: CallRecord) -> None:
    a, b = write("a", [served(one, 1, "x")]), write("b", [served(one, 1, "x"), served(one, 2, "y")])
    found = merged([a, b])
    assert ([record.call for record in found.records], found.doubled) == (["x-0-1", "y-0-1"], 1)


def test_two_files_that_say_different_things_of_a_call_are_refused(write: Write, one: CallRecord) -> None:
    a, b = write("a", [one]), write("b", [replace(one, step="another")])
    with pytest.raises(TrailsNotMerged, match="something else of call"):
        merged([a, b])


def test_a_trail_that_was_edited_is_refused(write: Write, one: CallRecord) -> None:
    path = write("a", [served(one, 1, "x"), served(one, 2, "y")])
    path.write_bytes(path.read_bytes().replace(b"home of the session", b"home of some session", 1))
    with pytest.raises(TrailsNotMerged, match="line 1"):
        merged([path])


def test_a_line_that_a_killed_process_did_not_finish_is_named_and_left_out(write: Write, one: CallRecord) -> None:
    path = write("a", [served(one, 1, "x"), served(one, 2, "y")])
    path.write_bytes(path.read_bytes()[:-40])
    found = merged([path])
    assert [record.call for record in found.records] == ["x-0-1"]
    assert [line.number for line in found.torn] == [2]


def test_a_file_that_is_there_is_not_written_over(write: Write, one: CallRecord) -> None:
    path = write("a", [one])
    with pytest.raises(AuditFileRefused, match="already"):
        write_merged(merged([path]), path)


attempts = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(0, 2)), max_size=14, unique=True)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(attempts)
def test_each_accepted_call_is_there_once_wherever_its_attempts_are(
    one: CallRecord, tmp_path_factory: pytest.TempPathFactory, made: list[tuple[int, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("merged")
    once = {(request, attempt): replica for request, attempt, replica in made}
    for (request, attempt), replica in once.items():
        AuditFile(folder / str(replica), content=False).write(served(one, attempt, str(request), attempt))
    found = merged(sorted(folder.iterdir()))
    last = {request: max(attempt for asked, attempt in once if asked == request) for request, _ in once}
    assert {record.call for record in found.records} == {f"{request}-0-{last[request]}" for request in last}
    assert len(found.records) + len(found.replaced) == len(once)


def test_the_command_writes_what_verifies(write: Write, one: CallRecord, tmp_path: Path) -> None:
    a, b = write("a", [served(one, 1, "x")]), write("b", [served(one, 2, "x", attempt=2)])
    ran = CliRunner().invoke(app, ["audit", "merge", str(a), str(b), "--out", str(tmp_path / "all"), "--json"])
    told = json.loads(ran.stdout)
    assert (told["calls"], told["replaced"], told["torn"]) == (1, ["x-0-1"], 0)
    assert CliRunner().invoke(app, ["audit", "verify", str(tmp_path / "all"), "--head", told["head"]]).exit_code == 0
