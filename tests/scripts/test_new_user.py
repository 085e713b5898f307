"""The script of a new user's mistakes tells errors of others, hangs and silent drops apart from what is ours."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bad_inputs import Bad

import trimode as tm
from trimode.testing import FakeEngine, in_turn

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import check_new_user


def _raises(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Bad("x", lambda *_: _raises(tm.RequestError("no")), tm.RequestError), "ok"),
        (Bad("x", lambda *_: _raises(tm.PolicyError("no")), tm.RequestError), "other"),
        (Bad("x", lambda *_: _raises(TypeError("no")), tm.RequestError), "untyped error"),
        (Bad("x", lambda *_: time.sleep(2), tm.RequestError), "hang"),
        (Bad("x", lambda fake, _: fake.generate("x"), tm.RequestError), "silent drop"),
        (Bad("x", lambda fake, _: fake.generate("x"), "no part"), "silent drop"),
        (Bad("x", lambda fake, _: fake.generate("x", mode="ar", rows=2), "rows=2 has no part"), "ok"),
    ],
)
def test_verdicts(bad: Bad, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_new_user, "SECONDS", 1.0)
    fake = FakeEngine()
    assert check_new_user.verdict(bad, fake, fake)[0] == said


def test_the_agent_runs_sync_and_async_tools() -> None:
    calls = in_turn(
        tm.ToolCall(name="add", arguments={"numbers": [1, 2]}),
        tm.ToolCall(name="weather", arguments={"city": "Rome"}),
        tm.ToolCall(name="search", arguments={"query": "Rome"}),
    )
    engine = FakeEngine({"act": calls, "answer": "Fine."})
    diary = asyncio.run(check_new_user.agent(engine))
    assert diary.lines == ["3.0", "Rome: sun for 1 days", "['a note on Rome']", "Fine."]
    assert engine.calls[-1].messages[0]["content"] == "In a friendly tone, tell the user: ['a note on Rome']"
