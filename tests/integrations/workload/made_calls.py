"""Recorded calls and targets without a model, for tests of workloads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trimode.engine.errors import RequestError
from trimode.integrations.workload.answering.targets import Reply
from trimode.integrations.workload.calls import Answer, Log, RecordedCall, Times, ToolUse, Usage
from trimode.integrations.workload.readings import Store
from trimode.integrations.workload.study import Plan, Study, studied

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"total": {"type": "integer"}, "unit": {"enum": ["cm", "m"]}},
    "required": ["total", "unit"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
TOTAL = '{"total":3,"unit":"cm"}'
PARIS = Answer(calls=(ToolUse("weather", {"city": "Paris", "days": 2}),))


def call(number: int = 0, **given: Any) -> RecordedCall:
    """A JSON call that took a second; `given` replaces its fields."""
    fields: dict[str, Any] = {
        "id": f"log.jsonl:{number}",
        "kind": "json",
        "step": "measure",
        "loop": f"loop {number // 2}",
        "messages": ({"role": "user", "content": f"How long is number {number}?"},),
        "schema": SCHEMA,
        "settings": {"temperature": 0.0, "max_tokens": 20},
        "answer": Answer(TOTAL),
        "times": Times(first=0.5, last=1.0),
        "usage": Usage(input=100, output=20),
    }
    return RecordedCall(**{**fields, **given})


class Echo:
    """A target that says what was recorded, or what `say` makes of a call, in `seconds`; None is an error."""

    def __init__(
        self,
        name: str,
        seconds: float = 0.5,
        say: Callable[[RecordedCall], Answer | None] = lambda call: call.answer,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.engine, self.identity = name, name.partition(":")[0], "1"
        self.settings, self.asked = settings, list[str]()
        self._seconds, self._say = seconds, say

    def prepare(self, call: RecordedCall) -> None:
        pass

    def answer(self, call: RecordedCall) -> Reply:
        self.asked.append(call.id)
        answer = self._say(call)
        if answer is None:
            raise RequestError("no")
        times = Times(first=self._seconds / 2, last=self._seconds * (1 + len(self.asked) % 3 / 10))
        return Reply(answer=answer, times=times, usage=Usage(input=100, output=20, passes=5))


def chat_line(content: str = TOTAL, **line: Any) -> dict[str, Any]:
    """A line of a log of OpenAI's chat API."""
    return {
        "request": {
            "model": "big",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How long?"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "length", "schema": SCHEMA}},
            "temperature": 0,
            "max_completion_tokens": 20,
        },
        "response": {
            "model": "big-2026",
            "choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 40, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 32}},
        },
        **line,
    }


def written(path: Path, *documents: Any) -> Path:
    """The documents as lines of JSON; texts as they are."""
    lines = [one if isinstance(one, str) else json.dumps(one) for one in documents]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def made(step: str = "measure", count: int = 160, **fields: Any) -> Study:
    """A study of two groups under two runs; `step` names the first."""
    calls = [call(at, loop=f"loop {at}", step=step, **fields) for at in range(count)]
    calls += [call(at, loop=f"loop {at}", step="guess", **fields) for at in range(200, 240)]
    targets = [
        Echo("local:ar", 0.8),
        Echo("local:linear_spec", 0.4, lambda one: one.answer if one.step != "guess" else Answer("{}")),
    ]
    return studied(Log(names=(f"{step}.jsonl",), calls=tuple(calls)), targets, True, Plan(), Store(), still)


def still(_title: str, _total: int) -> Callable[[], object]:
    return lambda: None
