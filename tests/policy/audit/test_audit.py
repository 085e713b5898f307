"""The audit file: whole records survive anything that happens to its end, and no change inside it goes unseen."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from trimode.integrations.cli.audit_tables import problems_table, table
from trimode.policy.audit.content import SWITCH
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.trail import AuditFile, Head, head, read_audit, records, verify
from trimode.policy.errors import PolicyError

Recorded = Callable[..., CallRecord]
SIGNS = (string.ascii_letters + string.digits).encode()


@dataclass
class Sample:
    """A good file of six calls (three modes, the last three without content) and a place for altered copies."""

    lines: list[bytes]
    copy: Path
    record: CallRecord

    def verify(self, lines: list[bytes]) -> dict[int, set[str]]:
        """Fields with problems, by line."""
        self.copy.write_bytes(b"".join(line + b"\n" for line in lines))
        found: dict[int, set[str]] = {}
        for problem in verify(self.copy):
            found.setdefault(problem.line, set()).add(problem.field)
        return found


@pytest.fixture(scope="module")
def sample(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("audit")
    for content in (True, False):
        file = AuditFile(folder / "deep" / "audit.jsonl", content=content)
        for mode in ("ar", "diffusion", "linear_spec"):
            file.write(recorded(mode, schema=True))
    lines = file.path.read_bytes().splitlines()
    return Sample(lines, folder / "copy.jsonl", recorded("linear_spec", schema=True))


def edit(line: bytes, change: Callable[[Any], None]) -> bytes:
    """The line with its record changed and its hashes left as they were."""
    fields = json.loads(line)
    change(fields["record"])
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def test_file_reads_back_and_verifies(sample: Sample) -> None:
    assert sample.verify(sample.lines) == {}
    lines = read_audit(sample.copy)
    assert [line.entry.sequence for line in lines if line.entry] == [1, 2, 3, 4, 5, 6]
    assert [record.has_content for record in records(lines)] == [True] * 3 + [False] * 3
    assert lines[2].record is not None
    assert lines[2].record.rounds == sample.record.rounds
    assert lines[5].record is not None
    assert lines[5].record.rounds == sample.record.redacted().rounds


def test_file_is_for_its_owner_and_keeps_no_content_unless_asked(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    file = AuditFile(tmp_path / "audit.jsonl", fsync=True)
    file.write(recorded("ar"))
    assert not records(read_audit(file.path))[0].has_content
    assert file.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("at", [2, 5])
def test_edited_accepted_count_is_named_with_line_call_round_and_field(sample: Sample, at: int) -> None:
    call = json.loads(sample.lines[at])["record"]["call"]
    count = json.loads(sample.lines[at])["record"]["rounds"][1]["accepted"]

    def change(record: Any) -> None:
        record["rounds"][1]["accepted"] += 1

    altered = [*sample.lines, sample.lines[0]]
    altered[at] = edit(sample.lines[at], change)
    sample.verify(altered)
    first, *others = verify(sample.copy)
    assert (first.line, first.call, first.field) == (at + 1, call, "rounds[1].accepted")
    assert (first.expected, first.found) == (str(count), str(count + 1))
    assert first.message.startswith("round 1: accepted drafts")
    assert [(problem.line, problem.field) for problem in others][:2] == [(at + 1, "sha256"), (at + 2, "previous")]
    assert all("chain broken" in problem.message for problem in others[:2])


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "field", ["output_tokens", "accepted", "corrected", "forced", "repaired", "drafted", "forward_passes"]
)
def test_edited_call_count_is_named(sample: Sample, at: int, field: str) -> None:
    def change(record: Any) -> None:
        record["counts"][field] += 1

    altered = list(sample.lines)
    altered[at] = edit(sample.lines[at], change)
    assert f"counts.{field}" in sample.verify(altered)[at + 1]


def _swap_tokens(record: Any) -> None:
    record["token_ids"][0], record["token_ids"][1] = record["token_ids"][1], record["token_ids"][0]


def _change_round_token(record: Any) -> None:
    record["rounds"][0]["tokens"][0] += 1


def _drop_round(record: Any) -> None:
    record["rounds"].pop()


def _drop_rejected(record: Any) -> None:
    next(made for made in record["rounds"] if made["rejected"])["rejected"].pop()


def _drop_counts(record: Any) -> None:
    record["counts"] = None


def _change_prompt(record: Any) -> None:
    record["prompt_ids"][0] += 1


@pytest.mark.parametrize(
    ("at", "change", "field"),
    [
        (0, _swap_tokens, "token_ids"),
        (1, _change_round_token, "token_ids"),
        (2, _change_round_token, "rounds[0].sha256"),
        (2, _drop_round, "token_ids"),
        (3, _drop_round, "output_sha256"),
        (5, _drop_round, "counts.output_tokens"),
        (5, _drop_counts, "counts"),
        (0, _change_prompt, "prompt_sha256"),
    ],
)
def test_edited_content_is_named(sample: Sample, at: int, change: Callable[[Any], None], field: str) -> None:
    altered = list(sample.lines)
    altered[at] = edit(sample.lines[at], change)
    assert field in sample.verify(altered)[at + 1]


@pytest.mark.parametrize("at", [1, 2, 4, 5])
def test_removed_rejection_is_named(sample: Sample, at: int) -> None:
    altered = list(sample.lines)
    altered[at] = edit(sample.lines[at], _drop_rejected)
    assert any(field.endswith(".drafted") for field in sample.verify(altered)[at + 1])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_changed_sign_is_found(sample: Sample, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(sample.lines) - 1))
    line = sample.lines[at]
    where = data.draw(st.sampled_from([i for i, sign in enumerate(line) if sign in SIGNS]))
    sign = data.draw(st.sampled_from([other for other in SIGNS if other != line[where]]))
    altered = list(sample.lines)
    altered[at] = line[:where] + bytes([sign]) + line[where + 1 :]
    assert sample.verify(altered)[at + 1] & {"sha256", "line"}


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_removed_doubled_or_swapped_lines_are_found(sample: Sample, data: st.DataObject) -> None:
    count = len(sample.lines)
    order = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count + 1))
    cut_off_the_end = order == list(range(len(order)))
    assert bool(sample.verify([sample.lines[at] for at in order])) != cut_off_the_end


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_cut_anywhere_every_whole_record_is_readable_and_writing_goes_on(sample: Sample, data: st.DataObject) -> None:
    whole = b"".join(line + b"\n" for line in sample.lines)
    cut = data.draw(st.one_of(st.integers(0, len(whole)), st.sampled_from([len(whole) - 1, len(sample.lines[0])])))
    sample.copy.write_bytes(whole[:cut])
    ends = [len(b"".join(line + b"\n" for line in sample.lines[: n + 1])) - 1 for n in range(len(sample.lines))]
    complete = sum(end <= cut for end in ends)
    torn = cut not in (0, *ends, *(end + 1 for end in ends))
    lines = read_audit(sample.copy)
    assert len(records(lines)) == complete
    assert [line.problem.startswith("torn last line") for line in lines] == [False] * complete + [True] * torn

    AuditFile(sample.copy, content=True).write(sample.record)
    assert [record.call for record in records(read_audit(sample.copy))][-1] == sample.record.call
    assert [(problem.line, problem.field) for problem in verify(sample.copy)] == [(complete + 1, "line")] * torn


def test_a_torn_line_still_tells_its_call_where_it_can(sample: Sample) -> None:
    def change(record: Any) -> None:
        record["surprise"] = 1

    altered = [edit(sample.lines[0], change)]
    assert sample.verify(altered) == {1: {"line"}}
    problem = verify(sample.copy)[0]
    assert problem.call == json.loads(sample.lines[0])["record"]["call"]
    assert "surprise" in problem.found


def test_other_record_formats_are_refused_by_name(sample: Sample) -> None:
    altered = [sample.lines[0].replace(b'"schema_version":"2"', b'"schema_version":"1"')]
    assert sample.verify(altered) == {1: {"line"}}
    assert verify(sample.copy)[0].found == ("record format 1: this version of trimode reads and writes format 2")


def test_threads_and_several_writers_keep_one_chain(sample: Sample, tmp_path: Path) -> None:
    writers = [AuditFile(tmp_path / "audit.jsonl", content=False) for _ in range(2)]

    def write(at: int) -> int:
        return writers[at % 2].write(sample.record).sequence

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(write, range(24)))
    assert sorted(numbers) == list(range(1, 25))
    assert verify(tmp_path / "audit.jsonl") == []


def test_a_file_that_was_emptied_starts_again(sample: Sample, tmp_path: Path) -> None:
    file = AuditFile(tmp_path / "audit.jsonl")
    file.write(sample.record)
    file.path.write_bytes(b"")
    assert file.write(sample.record).sequence == 1
    assert verify(file.path) == []


def test_lines_cut_off_the_end_show_against_a_kept_head(sample: Sample) -> None:
    sample.verify(sample.lines)
    kept = head(sample.copy)
    assert kept is not None
    assert kept.sequence == 6
    assert Head.parse(str(kept)) == kept
    assert verify(sample.copy, kept) == []
    sample.verify(sample.lines[:4])
    assert verify(sample.copy) == [], "without the head nothing shows"
    (problem,) = verify(sample.copy, kept)
    assert (problem.line, problem.field, problem.found) == (4, "head", "lines 1 to 4")
    sample.verify([*sample.lines[:4], sample.lines[5]])
    assert "head" in {problem.field for problem in verify(sample.copy, kept)}
    sample.verify([])
    assert head(sample.copy) is None
    assert [problem.found for problem in verify(sample.copy, kept)] == ["no lines"]


def test_a_trail_that_was_cut_and_written_on_shows_against_a_kept_head(sample: Sample) -> None:
    sample.verify(sample.lines)
    kept = head(sample.copy)
    sample.verify(sample.lines[:4])
    writer = AuditFile(sample.copy)
    heads = [writer.write(sample.record) for _ in range(3)]
    assert verify(sample.copy) == []
    assert [(problem.line, problem.field) for problem in verify(sample.copy, kept)] == [(6, "head")]
    assert verify(sample.copy, heads[0]) == verify(sample.copy, heads[-1]) == []
    assert heads[-1] == head(sample.copy)


@pytest.mark.parametrize("text", ["", "7", "7:abc", f"x:{'a' * 64}", f"7:{'g' * 64}"])
def test_a_head_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match="expected NUMBER:SHA256"):
        Head.parse(text)


def test_tables_show_calls_and_problems(recorded: Recorded, sample: Sample) -> None:
    console = Console(record=True, width=200, file=StringIO())
    failed = recorded("ar", failed=ValueError("x"), step="[bold]odd[/]")
    view, left_out = table([sample.record, failed], 200)
    assert left_out == []
    console.print(view)
    counts = sample.record.counts
    assert counts is not None
    shown = console.export_text()
    header, call, failure = shown.splitlines()
    assert " ".join(header.split()) == (
        "# step kind mode tokens passes TPF accepted forced repaired schema finish reason"
    )
    tokens_per_forward = f"{counts.output_tokens / counts.forward_passes:.2f}"
    for cell in ("linear_spec", str(counts.output_tokens), tokens_per_forward, f"{counts.accepted}/{counts.drafted}"):
        assert cell in call.split()
    assert "valid" in call
    assert "step kind json" in call
    assert "[bold]odd[/]" in failure
    assert "ValueError" in failure

    sample.verify([sample.lines[1]])
    console.print(problems_table(verify(sample.copy)))
    assert "chain broken" in console.export_text()
