"""What stands around a call: the run of a host program, such as an agent framework, and the replica that served it.

Knows ids as plain strings. Does not know frameworks, OpenTelemetry or routers, which give them. Ids are no content: a
record without content keeps them. They may still be personal, such as a thread named by a mail address, so that a
caller's own rule sees those of the host (`redaction.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

TraceId = Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")]
SpanId = Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRun:
    """Ids of the host around a call, as the host writes them; "" where it gave none.

    `framework`: the host's name, such as "langchain". `run`: of its run. `conversation`: of the thread, conversation or
    group that several runs belong to. `agent`: of the agent that asked. `trace`, `span`: the OpenTelemetry span around
    the call, in hexadecimal, whoever opened it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    framework: str = ""
    run: str = ""
    conversation: str = ""
    agent: str = ""
    trace: TraceId = ""
    span: SpanId = ""

    def __bool__(self) -> bool:
        return any(self.ids)

    def __str__(self) -> str:
        named = {"run": self.run, "conversation": self.conversation, "agent": self.agent, "trace": self.trace}
        return ", ".join([self.framework, *(f"{name} {one}" for name, one in named.items() if one)]).removeprefix(", ")

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids, in the order of the fields; "" where there is none."""
        return tuple(getattr(self, field.name) for field in fields(self) if field.name != "framework")

    def is_named(self, part: str) -> bool:
        """Returns whether one of the ids is `part`, or begins or ends with it."""
        return bool(part) and any(one.startswith(part) or one.endswith(part) for one in self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedBy:
    """The replica that decoded a call, where several serve one model. `request` and `choice`: of the call that was
    accepted; `attempt`: from 1, more than one where an earlier replica was lost; `why`: the reason of the router."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    request: str
    choice: int
    attempt: int
    replica: str
    why: str
