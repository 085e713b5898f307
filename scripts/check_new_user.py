"""What a new user does: an agent of three tools written from the docs, then everything that can be passed by mistake.

One line for each bad input: ok, or what went wrong (an untyped error, a hang, a silent drop); then the three counts.
Needs a source checkout, whose tests hold the table. Exit code 1 if any count is not 0.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import trimode as tm
from trimode.testing import FakeEngine, in_turn

TABLE = Path(__file__).resolve().parents[1] / "tests" / "policy" / "calls" / "bad_inputs.py"
SECONDS = 10.0
Say = tuple[str, str]
"""A verdict (ok, untyped error, hang, silent drop) and words."""


def search(query: str) -> list[str]:
    """Finds notes."""
    return [f"a note on {query}"]


async def weather(city: str, days: int = 1) -> str:
    """The forecast for a city."""
    await asyncio.sleep(0)
    return f"{city}: sun for {days} days"


def add(numbers: list[float]) -> float:
    """The sum of numbers."""
    return sum(numbers)


class Diary:
    """An agent with a state: its steps are methods."""

    def __init__(self, tone: str) -> None:
        self.tone = tone
        self.lines: list[str] = []

    @tm.step("tool_call", tools=[search, weather, add], max_tokens=80)
    def act(self, history: list[dict[str, Any]]) -> tm.ToolCall:
        return tm.ask(history)

    @tm.step("prose", max_tokens=60)
    def answer(self, facts: str) -> str:
        """In a {self.tone} tone, tell the user: {facts}"""
        ...


async def agent(engine: tm.Engine) -> Diary:
    """Three calls, with the history in OpenAI's form."""
    diary = Diary("friendly")
    tools: list[Any] = [search, weather, add]
    history: list[dict[str, Any]] = [
        {"role": "developer", "content": "Plan a trip."},
        {"role": "user", "content": [{"type": "text", "text": "Is it sunny in Rome?"}]},
    ]
    with tm.session(engine, policy=tm.Policy(), trim="oldest"):
        for number in range(3):
            call = diary.act.options(seed=number)(history)
            found = await tm.aexecute(call, tools)
            spoken = {"id": f"c{number}", "type": "function"}
            function = {"name": call.name, "arguments": json.dumps(call.arguments)}
            history.append({"role": "assistant", "content": None, "tool_calls": [{**spoken, "function": function}]})
            history.append({"role": "tool", "tool_call_id": f"c{number}", "content": str(found)})
        diary.lines = [*(str(m["content"]) for m in history if m["role"] == "tool")]
        diary.lines.append(diary.answer(diary.lines[-1]))
    return diary


def table() -> ModuleType:
    spec = spec_from_file_location("bad_inputs", TABLE)
    if spec is None or spec.loader is None:
        raise tm.TrimodeError(f"no table of bad inputs at {TABLE}; run from a source checkout")
    module = module_from_spec(spec)
    sys.modules["bad_inputs"] = module
    spec.loader.exec_module(module)
    return module


def verdict(bad: Any, fake: tm.Engine, real: tm.Engine) -> Say:
    """What came of one entry, within `SECONDS`."""
    found: list[Say] = []
    thread = threading.Thread(target=lambda: found.append(_heard(bad, fake, real)), daemon=True)
    thread.start()
    thread.join(SECONDS)
    return found[0] if found else ("hang", f"nothing within {SECONDS:g} s")


def _heard(bad: Any, fake: tm.Engine, real: tm.Engine) -> Say:
    try:
        result = bad.run(fake, real)
    except tm.TrimodeError as error:
        words = f"{type(error).__name__}: {error}"
        return (
            ("ok", words) if not isinstance(bad.expected, str) and isinstance(error, bad.expected) else ("other", words)
        )
    except BaseException as error:  # whatever it is, a new user would see it
        return "untyped error", f"{type(error).__name__}: {error}"
    notes = [note for note in getattr(result, "notes", ()) if isinstance(bad.expected, str) and bad.expected in note]
    return ("ok", f"note: {notes[0]}") if notes else ("silent drop", repr(result)[:80])


def main() -> int:
    real = tm.Engine.load()
    asked = (("search", {"query": "Rome"}), ("weather", {"city": "Rome", "days": 3}), ("add", {"numbers": [1, 2.5]}))
    calls = in_turn(*(tm.ToolCall(name=name, arguments=dict(arguments)) for name, arguments in asked))
    fake = FakeEngine({"act": calls, "answer": "Pack light."})
    print("agent:", asyncio.run(agent(fake)).lines)
    counts: dict[str, int] = {}
    for bad in table().TABLE:
        said, words = verdict(bad, fake, real)
        counts[said] = counts.get(said, 0) + 1
        print(f"{said:>13}  {bad.name}: {words[:120]}".replace("\n", " ").encode("ascii", "backslashreplace").decode())
    total = sum(counts.values())
    wrong = {kind: counts.get(kind, 0) for kind in ("untyped error", "hang", "silent drop", "other")}
    print(f"{total} bad inputs:", ", ".join(f"{count} {kind}s" for kind, count in wrong.items()))
    return 1 if any(wrong.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
