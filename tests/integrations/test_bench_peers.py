"""Peers of `trimode bench` in processes of their own: what is asked, what is counted, and what is listed as not run.

No peer is installed here: fake ones stand in for them, in this process and in another. tests/peers runs the real ones.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import trimode
from trimode.integrations.bench import peer_process, peer_protocol, peer_worker, peers
from trimode.integrations.bench.benchmark import base_of, kinds, measure
from trimode.integrations.bench.markdown import in_markdown
from trimode.integrations.bench.peer_process import PeerProcess
from trimode.integrations.bench.peer_protocol import Answered, Asked, CannotRun, PeerEngine, Setup
from trimode.integrations.bench.rows import Report, row
from trimode.integrations.bench.systems import Question, Reading, SystemUnderTest
from trimode.integrations.bench.tables import lines
from trimode.policy.calls.engine import Engine
from trimode.policy.schema import Regex, schema_of

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
SETUP = Setup(
    peer="nothing", gguf="model.gguf", directory="", drafts=False, dtype="float32", threads=1, context=64, ends=(2, 0),
    probe=(5, 6), max_tokens=4, folder="",
)  # fmt: skip


def question(kind: str, size: int, schema: bool = False) -> Question:
    return Question(source="here", kind=kind, prompt=(7,) * size, schema=schema_of(SCHEMA) if schema else None)


def answered(ids: tuple[int, ...], seconds: float = 2.0) -> Answered:
    return Answered(
        ids=ids, seconds=seconds, prefill_seconds=seconds / 2, decode_seconds=seconds / 2, decode_tokens=len(ids) - 1
    )


@dataclass
class Fake:
    """A peer that answers with its prompt's length, refuses prompts of `refuses` tokens, and knows no schema "b"."""

    refuses: int = -1
    version: str = "fake 1.0"
    setting: str = "no drafts"
    pid: int = field(default_factory=os.getpid)
    asked: list[Asked] = field(default_factory=list[Asked])

    def run(self, asked: Asked) -> Answered:
        self.asked.append(asked)
        if len(asked.prompt) == self.refuses:
            raise CannotRun("too long a prompt")
        return answered((len(asked.prompt), 2))

    def close(self) -> int | None:
        return 5 << 20


def of_mine(name: str, ids: tuple[int, ...], seconds: float) -> SystemUnderTest:
    fields: dict[str, Any] = {**asdict(answered(ids, seconds)), "passes": 1}
    return SystemUnderTest(name, "free", lambda _: Reading(**fields))


def test_rows_of_a_peer_beside_ours() -> None:
    found, fake = peers.Peers(), Fake(refuses=30)
    peers.add_running(found, "fake", fake, max_tokens=9)
    asked = [question("plan", 10), question("plan", 30), question("json", 10, schema=True)]
    both = [*found.systems, of_mine("ar", (10, 2), 1.0)]
    readings, refused = measure(both, asked, 2, lambda: None)
    assert refused == {"fake": "1 steps: too long a prompt"}
    assert {call.max_tokens for call in fake.asked} == {9}
    assert [json.loads(call.schema or "null") for call in fake.asked if call.schema] == [SCHEMA] * 2
    assert base_of(found) == "fake"
    rows = {(system.name, kind): row(system, kind, asked, readings, "fake") for kind in kinds(asked) for system in both}
    mine, theirs = rows["ar", "plan"], rows["fake", "plan"]
    assert mine is not None
    assert theirs is not None
    assert (mine.n, theirs.n, theirs.passes, mine.passes) == (2, 1, None, 2)
    ratios = (mine.speedup, mine.speedup_sum, mine.prefill_speedup, mine.decode_speedup)
    assert ratios == (2.0, 2.0, 2.0, 2.0), "on the question that both ran"
    assert (mine.equal_ids, mine.different_ids) == (1, 0)
    assert (theirs.speedup_ar, theirs.equal_ids) == (0.5, None)
    assert rows["fake+schema", "plan"] is None
    held = rows["fake+schema", "json"]
    assert held is not None
    assert (held.group, held.equal_ids, held.speedup_ar) == ("peer-schema", None, None)


def test_a_question_that_is_refused_in_a_later_round_counts_in_none() -> None:
    turns: Iterator[Answered | CannotRun] = iter([answered((1, 2)), CannotRun("out of memory")])

    def run(_: Question) -> Reading:
        if isinstance(said := next(turns), CannotRun):
            raise said
        fields: dict[str, Any] = {**asdict(said), "passes": None}
        return Reading(**fields)

    readings, refused = measure([SystemUnderTest("fake", "peer", run)], [question("plan", 3)], 3, lambda: None)
    assert readings == {"fake": {}}
    assert refused == {"fake": "1 steps: out of memory"}


def test_texts_without_a_json_schema_are_listed() -> None:
    found = peers.Peers()
    peers.add_running(found, "fake", Fake(), max_tokens=9)
    asked = [replace(question("json", 10), schema=Regex("[a-z]+"))]
    _, refused = measure(found.systems, asked, 1, lambda: None)
    assert refused == {"fake+schema": "1 steps: the step's text is held by no JSON Schema"}


def test_what_did_not_run_and_what_a_peer_is_are_printed() -> None:
    found = peers.Peers()
    peers.add_running(found, "fake", Fake(), max_tokens=9)
    found.not_run["other"] = "its process ended with code -11: nothing printed"
    asked = [question("plan", 10)]
    both = [*found.systems, of_mine("ar", (10, 2), 1.0), of_mine("lookup_spec", (11, 2), 0.5)]
    readings, _ = measure(both, asked, 1, lambda: None)
    rows = [one for system in both if (one := row(system, "plan", asked, readings, "fake")) is not None]
    found.close()
    about = dict.fromkeys(("cpu", "cores", "threads", "torch", "transformers", "trimode", "model", "dtype"), "x")
    names = (
        "own_size_bytes_per_s", "weight_bytes", "large_bytes_per_s", "flop_per_s", "derived_pass_seconds",
        "derived_pass_seconds_from_memory", "derived_multiply_seconds_per_row", "ar_pass_seconds",
    )  # fmt: skip
    floor: dict[str, float | None] = dict.fromkeys(names)
    known = {**about, "hf_cache": None, "base": "fake", "peers": found.about, "command": "trimode bench FILE"}
    report = Report(known, floor, {}, rows, found.not_run)
    printed = list(lines(report))
    assert "fake: fake 1.0, no drafts, 5 MB at most" in printed
    assert "not run: other: its process ended with code -11: nothing printed" in printed
    assert list(in_markdown(report)) == [
        "```", "trimode bench FILE", "```", "",
        "| contender | plan: decode tok/s, x fake | whole call, x fake: plan | ids = fake |",
        "| --- | --: | --: | --: |",
        "| `fake` | 1.0, 1.00 | 1.00 |  |",
        "| `ar` | 2.0, 2.00 | 2.00 | 1/1 |",
        "| `lookup_spec` | 4.0, 4.00 | 4.00 | 0/1 |",
        "",
        "| contender | first token, ms: plan (10 tokens) | x fake: plan |",
        "| --- | --: | --: |",
        "| `fake` | 1,000 | 1.00 |",
        "| `ar` | 500 | 2.00 |",
        "| `lookup_spec` | 250 | 4.00 |",
        "",
        "| contender | whole call, x ar: plan | decode, x ar: plan |",
        "| --- | --: | --: |",
        "| `fake` | 0.50 | 0.50 |",
        "| `ar` | 1.00 | 1.00 |",
        "| `lookup_spec` | 2.00 | 2.00 |",
        "",
    ]  # fmt: skip


def test_the_other_process_answers_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(_: Setup) -> PeerEngine:
        return Fake(refuses=3)

    monkeypatch.setattr(peer_worker, "started", started)
    asked = [Asked(prompt=(1, 2), max_tokens=4, schema="{}"), Asked(prompt=(1, 2, 3), max_tokens=4)]
    text = "".join(peer_protocol.line("asked", one) for one in asked) + peer_protocol.line("stop", "")
    said = [peer_protocol.message(line) for line in peer_worker.answers(SETUP, io.StringIO(text))]
    assert [kind for kind, _ in said] == ["ready", "answered", "refused", "stopped"]
    assert said[0][1] == {"version": "fake 1.0", "setting": "no drafts"}
    assert peer_protocol.answered_of(said[1][1]) == answered((2, 2))
    assert said[2][1] == "too long a prompt"
    assert said[3][1]["resident_bytes"] >= 0
    assert peer_protocol.setup_of(json.loads(json.dumps(asdict(SETUP)))) == SETUP
    assert peer_protocol.asked_of(json.loads(json.dumps(asdict(asked[0])))) == asked[0]


WORKER = """
import sys, time
from trimode.integrations.bench import peer_protocol as protocol
print('{"ready": {"version": "v", "setting": "s"}}', flush=True)
for line in sys.stdin:
    kind, fields = protocol.message(line)
    if kind == "stop":
        print('{"stopped": {"resident_bytes": 7}}', flush=True)
    elif len(fields["prompt"]) == 1:
        sys.exit("it broke\\n  because of this")
    elif len(fields["prompt"]) == 2:
        time.sleep(100)
    else:
        said = protocol.Answered(ids=(1,), seconds=1, prefill_seconds=1, decode_seconds=0, decode_tokens=0)
        print(protocol.line("answered", said), end="", flush=True)
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of peers run the module above."""
    (tmp_path / "fake_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(trimode.__file__).parents[1]}")
    monkeypatch.setattr(peer_process, "_WORKER", "fake_worker")


@pytest.mark.usefixtures("worker")
def test_a_process_answers_breaks_and_ends() -> None:
    process = PeerProcess(SETUP)
    assert (process.version, process.setting) == ("v", "s")
    assert process.run(Asked(prompt=(1, 2, 3), max_tokens=4)).ids == (1,)
    with pytest.raises(CannotRun, match=r"its process ended with code 1: .*because of this"):
        process.run(Asked(prompt=(1,), max_tokens=4))
    with pytest.raises(CannotRun, match="its process ended with code 1"):
        process.run(Asked(prompt=(1, 2, 3), max_tokens=4))
    assert process.close() is None
    other = PeerProcess(SETUP)
    assert other.close() == 7


@pytest.mark.usefixtures("worker")
def test_a_process_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    process = PeerProcess(SETUP)
    monkeypatch.setattr(peer_process, "_CALL_SECONDS", 0.2)
    with pytest.raises(CannotRun, match="no answer in 0 s"):
        process.run(Asked(prompt=(1, 2), max_tokens=4))
    assert process.close() is None


def test_a_peer_that_is_not_there_is_listed_with_what_to_install(reference: Engine, tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match=r"with_nothing is not installed: pip install 'trimode\[bench\]'"):
        PeerProcess(SETUP)
    weights = peers.Weights(reference, tmp_path)
    assert weights.gguf == tmp_path / "model.gguf"
    assert (weights.directory / "config.json").is_file()
