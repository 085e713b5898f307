"""The spans of agents and tools, each with its metrics.

Knows names and the OpenTelemetry API. Does not know sessions, functions or calls.
"""

from __future__ import annotations

from itertools import count

from opentelemetry.context import Context

from . import names
from .attributes import Attributes
from .metrics import Labels, instruments, with_error
from .spans import OwnedSpan, known


class AgentSpan(OwnedSpan):
    """The `invoke_agent` span of a local agent. It names no provider, because the convention gives one to remote agents
    only."""

    def __init__(self, agent: str, model: str, parent: Context | None) -> None:
        self._agent: Labels = {names.GEN_AI_AGENT_NAME: agent}
        self._labels: Labels = {**self._agent, names.GEN_AI_REQUEST_MODEL: model}
        about = {names.GEN_AI_OPERATION_NAME: names.INVOKE_AGENT, **self._labels}
        super().__init__(f"{names.INVOKE_AGENT} {agent}", about, parent)
        # `next` of a counter is one step of the interpreter, so threads need no lock.
        self._inferences, self._tools = count(), count()

    def inference_began(self) -> None:
        next(self._inferences)

    def tool_began(self) -> None:
        next(self._tools)

    def end(self, failed: str | None = None, message: str | None = None) -> float:
        """Ends the span and measures the run. Calls that begin later, as of a stream read elsewhere, are in no
        count."""
        seconds, measures = super().end(failed, message), instruments(None)
        measures.agent_duration.record(seconds, with_error(self._labels, failed))
        measures.agent_inferences.record(next(self._inferences), self._agent)
        measures.agent_tools.record(next(self._tools), self._agent)
        return seconds


class ToolSpan(OwnedSpan):
    """The `execute_tool` span of one execution of a function."""

    def __init__(self, tool: str, agent: str | None, parent: Context | None) -> None:
        function: Attributes = {names.GEN_AI_TOOL_NAME: tool, names.GEN_AI_TOOL_TYPE: "function"}
        self._labels = known({**function, names.GEN_AI_AGENT_NAME: agent})
        about = {names.GEN_AI_OPERATION_NAME: names.EXECUTE_TOOL, **self._labels}
        super().__init__(f"{names.EXECUTE_TOOL} {tool}", about, parent)

    def end(self, failed: str | None = None, message: str | None = None) -> float:
        """Ends the span and measures the execution."""
        seconds = super().end(failed, message)
        instruments(None).tool_duration.record(seconds, with_error(self._labels, failed))
        return seconds
