"""The agent that runs in every framework: three tools of a recorded STAR episode, with the recorded results.

For each of the three requests the agent has to call a tool, gets its recorded result, and talks. Without a framework
it is `tokens_without_framework`; in a framework it has to give the same tokens, by the audit file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trimode as tm
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.trail import read_audit, records

EPISODE = json.loads((Path(__file__).parent / "episode.json").read_text(encoding="utf-8"))
USERS: list[str] = EPISODE["users"]
TOOLS: list[dict[str, Any]] = EPISODE["tools"]
SYSTEM = "You help with travel."
SETTINGS = {"temperature": 0.0, "max_tokens": 60}
STEP = "travel"
LONG = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 200, "maxItems": 200}
"""An output of 400 tokens and more, for tests that leave before its end."""


def recorded(name: str) -> str:
    """What the tool answered in the episode, as text."""
    return json.dumps(EPISODE["results"][name], separators=(",", ":"))


def tokens_without_framework(engine: tm.Engine, trail: Path) -> list[tuple[int, ...]]:
    """The tokens of every call, with the engine alone."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}]
    with tm.session(engine, trace=f"file:{trail}", content=True), tm.using(step=STEP, **SETTINGS):
        for user in USERS:
            messages.append({"role": "user", "content": user})
            turn = engine.generate(messages=messages, tools=TOOLS, tool_choice="required")
            calls = [{"id": one.id, "type": "function",
                      "function": {"name": one.name, "arguments": one.arguments}} for one in turn.calls]  # fmt: skip
            messages.append({"role": "assistant", "content": turn.content, "tool_calls": calls})
            messages += [{"role": "tool", "tool_call_id": one.id, "content": recorded(one.name)} for one in turn.calls]
            turn = engine.generate(messages=messages, tools=TOOLS, tool_choice="auto")
            messages.append({"role": "assistant", "content": turn.content})
    return tokens(calls_in(trail))


def calls_in(trail: Path) -> list[CallRecord]:
    """The records of an audit file."""
    return records(read_audit(trail))


def tokens(calls: Sequence[CallRecord]) -> list[tuple[int, ...]]:
    """The output's token ids of each call."""
    return [tuple(call.token_ids or ()) for call in calls]
