"""Recorded episodes as a workload: what the data set's author wrote counts as the recorded answer.

Knows episodes. Does not know engines. A step is named by its source and kind, such as `star.tool_call`; nobody measured
these answers, so they have no times and no token counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from trimode.policy.selection import known_kind

from ...bench.episodes import Episode, Step, read_episodes
from ..calls import Answer, RecordedCall, ToolUse

MAX_TOKENS: Final = 160
"""Output tokens of a step, as `trimode eval` has it: the episodes name no limit."""


def episode_calls(path: Path) -> Iterator[RecordedCall]:
    """Yields each model step of the file. Raises TrimodeError, which names the line."""
    for number, episode in enumerate(read_episodes(path), start=1):
        for step in episode.steps():
            yield _call(f"{path.name}:{number}:{step.index}", episode, step)


def _call(id: str, episode: Episode, step: Step) -> RecordedCall:
    kind: Any = known_kind(step.kind)
    return RecordedCall(
        id=id,
        kind=kind,
        step=f"{episode.source}.{step.kind}",
        loop=episode.id,
        messages=step.history or ({"role": "user", "content": ""},),
        tools=episode.tools,
        schema=step.schema,
        settings={"temperature": 0.0, "max_tokens": MAX_TOKENS},
        answer=_answer(step),
    )


def _answer(step: Step) -> Answer:
    if step.kind != "tool_call":
        return Answer(step.target)
    call = json.loads(step.target)
    return Answer(calls=(ToolUse(call["name"], call["arguments"]),))
