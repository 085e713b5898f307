"""What the audit server may read and answers, without the SDK of MCP: paths, bounds, content."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

import trimode as tm
from trimode.integrations.mcp import answers
from trimode.integrations.mcp.errors import McpDisconnected, McpNamesCollide, McpTimeout, McpToolFailed
from trimode.integrations.mcp.tools import mcp_tools
from trimode.integrations.mcp.trails import Trails
from trimode.policy.audit.host import HostRun
from trimode.policy.audit.trail import AuditFile, head
from trimode.policy.calls.fake_engine import FakeEngine
from trimode.policy.calls.scope import inside_host


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "audit.jsonl"
    engine = FakeEngine()
    with tm.session(engine, trace=AuditFile(path, content=True)):
        for number in range(3):
            with inside_host(HostRun(run=f"run-{number}")):
                engine.generate("secret", max_tokens=8)
    return path


def test_only_listed_names_are_read(trail: Path) -> None:
    outside = trail.parents[1] / "outside.jsonl"
    outside.write_bytes(trail.read_bytes())
    (trail.parent / "link.jsonl").symlink_to(outside)
    trails = Trails.of([trail.parent])
    assert trails.names() == [str(trail)]
    assert trails.path(str(trail)) == trail
    for name in ("link.jsonl", str(outside), f"{trail.parent}/../outside.jsonl", "/etc/passwd", ""):
        with pytest.raises(tm.PolicyError, match="no audit file is named"):
            trails.path(name)


def test_a_trail_with_a_part_elsewhere_is_not_listed(trail: Path) -> None:
    outside = trail.parents[1] / "outside.jsonl"
    outside.write_bytes(trail.read_bytes())
    trail.with_name("audit.jsonl.2").symlink_to(outside)
    assert Trails.of([trail.parent]).names() == []


def test_paths_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(tm.PolicyError, match="does not exist"):
        Trails.of([tmp_path / "nothing"])
    with pytest.raises(tm.PolicyError, match="expected audit files"):
        Trails.of([])


def test_a_large_file_is_refused(trail: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimode.integrations.mcp.trails.SIZE", 10)
    with pytest.raises(tm.PolicyError, match="are read at most"):
        Trails.of([trail]).path(str(trail))


def test_show(trail: Path) -> None:
    found = answers.show(trail, 2, "", False)
    assert found["calls_in_all"] == 3
    assert [call["number"] for call in found["calls"]] == [2, 3]
    (of_run,) = answers.show(trail, 1, "run-1", False)["calls"]
    assert of_run["number"] == 2


def test_verify(trail: Path) -> None:
    assert answers.verified(trail, "") == {"intact": True, "lines": 3, "problems": [], "left_out": 0}
    kept = str(head(trail))
    trail.write_bytes(b"\n".join(trail.read_bytes().splitlines()[:2]) + b"\n")
    assert answers.verified(trail, "")["intact"]
    (problem,) = answers.verified(trail, kept)["problems"]
    assert problem["field"] == "head"


def test_explain(trail: Path) -> None:
    by_number = answers.explain(trail, "2", False)
    assert by_number == answers.explain(trail, by_number["id"][:12], False)
    assert by_number["reason"]
    assert sum(len(one["origins"]) for one in by_number["rounds"]) == by_number["output_tokens"]
    for call in ("", "zz"):
        with pytest.raises(tm.PolicyError, match="calls are numbered or begin with"):
            answers.explain(trail, call, False)


def test_text_is_shown_only_where_asked_for(trail: Path) -> None:
    for content in (False, True):
        shown = [answers.show(trail, 1, "", content), answers.explain(trail, "1", content)]
        assert all(('"text"' in json.dumps(one)) is content for one in shown)


def test_answers_are_bounded(trail: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = answers.show(trail, 1, "", True)
    length = len(json.dumps(whole["calls"][0])) + len(json.dumps(whole["calls"][1]))
    for name, bound, rows in (("ROWS", 1, 1), ("LENGTH", length + 100, 2), ("LENGTH", length - 100, 1)):
        with monkeypatch.context() as patched:
            patched.setattr(answers, name, bound)
            found = answers.show(trail, 1, "", True)
        assert (found["calls"], found["left_out"]) == (whole["calls"][:rows], 3 - rows)


def test_long_texts_are_cut(trail: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "TEXT", 3)
    (call, *_) = answers.show(trail, 1, "", True)["calls"]
    assert "more characters)" in call["text"]


def test_errors_are_tool_errors_and_pythons_own() -> None:
    assert issubclass(McpTimeout, tm.ToolError)
    assert issubclass(McpTimeout, TimeoutError)
    assert issubclass(McpDisconnected, ConnectionError)
    assert McpToolFailed("shop", "order", "sold out").text == "sold out"
    assert "one=..., other=..." in str(McpNamesCollide({"order": ["a", "b"]}))


async def _opened() -> None:
    async with mcp_tools("http://127.0.0.1:1/mcp"):
        pass


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.delitem(sys.modules, "trimode.integrations.mcp.connection", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'trimode\[mcp\]'"):
        asyncio.run(_opened())
