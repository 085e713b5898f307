"""What a framework asks for in one model call, and the call of the engine that answers it.

Knows engines, `using` and the table of kinds. Does not know any framework: adapters fill in an `Ask`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from trimode.policy.audit import HostRun
from trimode.policy.calls import Engine, Result, StreamEvent, inside_host
from trimode.policy.selection import StepKind, current_naming
from trimode.policy.steps import using

from .conventions import one_system
from .kinds import DEFAULT_STEP, kind_of
from .pieces import Piece, piece_of

_FIELDS: Final = {"parallel_tool_calls": "parallel"} | {
    name: name for name in ("step", "kind", "timeout", "tools", "tool_choice", "schema")
}
"""Arguments that are fields of a call and no settings, by their names in OpenAI's format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One model call of a framework. `messages`, `tools`: in OpenAI's format.

    `tool_choice`: "auto", "none", "required", a tool's name or OpenAI's dict; None where there are no tools. `schema`:
    what the output has to fulfil. `node`: the framework's name for who asks, such as a graph's node or an agent.
    `step`, `kind`: what the adapter's own settings name the call; they win over `using`, which wins over `node` and the
    table of kinds. `settings`: keyword arguments of `Settings`. `timeout`: seconds after which TimeoutError is raised.
    `host`: the framework's ids of its run, which the record of the call keeps.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    parallel: bool | None = None
    schema: Any = None
    node: str = ""
    step: str | None = None
    kind: StepKind | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    timeout: float | None = None
    host: HostRun = field(default_factory=HostRun)

    @classmethod
    def of(cls, given: Mapping[str, Any], **asked: Any) -> Ask:
        """Returns a call of `asked`, and of arguments in which a framework mixes both: fields of a call, and settings.

        What is None is left out.
        """
        given = {name: value for name, value in given.items() if value is not None}
        fields = {ours: given[name] for name, ours in _FIELDS.items() if name in given}
        return cls(settings={name: value for name, value in given.items() if name not in _FIELDS}, **fields, **asked)

    @property
    def named(self) -> tuple[str, StepKind]:
        """The name and the kind of the call, from the strongest source that gives them."""
        given = current_naming()
        step = self.step or given.step or self.node or DEFAULT_STEP
        thinks = self.settings.get("max_thinking_tokens") is not None
        kind = self.kind or given.kind or kind_of(bool(self.tools) or thinks, self.schema, step)
        return step, kind

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `Engine.generate`, without name and kind."""
        calling = {"tool_choice": self.tool_choice or "auto", "parallel_tool_calls": self.parallel}
        asked = {"messages": one_system(self.messages), "schema": self.schema, **self.settings}
        found = {**asked, **({"tools": self.tools, **calling} if self.tools else {})}
        return {name: value for name, value in found.items() if value is not None}

    def generate(self, engine: Engine) -> Result:
        """Decodes at once. With a timeout it reads a stream, because a thread cannot be interrupted otherwise."""
        if self.timeout is None:
            with self._inside():
                return engine.generate(**self.options)
        *_, last = self.stream(engine)
        assert last.result is not None
        return last.result

    async def agenerate(self, engine: Engine) -> Result:
        """Decodes at once, for tasks. A cancelled task cancels the decoding."""
        with self._inside():
            async with asyncio.timeout(self.timeout):
                return await engine.agenerate(**self.options)

    def stream(self, engine: Engine) -> Iterator[Piece]:
        """Returns the output in pieces; the last one has the result. Leaving early cancels the call.

        Name, kind and session are those of the moment of this call, wherever the pieces are read.
        """
        with self._inside():
            return self._pieces(engine.stream(**self.options), self.named[1] == "turn")

    def astream(self, engine: Engine) -> AsyncGenerator[Piece]:
        """Returns what `stream` does, for tasks. Close it (`contextlib.aclosing`) where it may be left early."""
        with self._inside():
            return self._apieces(engine.astream(**self.options), self.named[1] == "turn")

    def _pieces(self, events: Generator[StreamEvent], is_turn: bool) -> Iterator[Piece]:
        end = None if self.timeout is None else time.monotonic() + self.timeout
        with closing(events):
            for event in events:
                if end is not None and event.result is None and time.monotonic() > end:
                    raise TimeoutError(f"the call took longer than {self.timeout} s")
                if (piece := piece_of(event, is_turn)) is not None:
                    yield piece

    async def _apieces(self, events: AsyncGenerator[StreamEvent], is_turn: bool) -> AsyncGenerator[Piece]:
        end = None if self.timeout is None else asyncio.get_running_loop().time() + self.timeout
        async with aclosing(events):
            while True:
                async with asyncio.timeout_at(end):
                    event = await anext(events, None)
                if event is None:
                    return
                if (piece := piece_of(event, is_turn)) is not None:
                    yield piece

    @contextmanager
    def _inside(self) -> Generator[None]:
        step, kind = self.named
        with inside_host(self.host), using(step=step, kind=kind):
            yield
