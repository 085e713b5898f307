"""What can answer a recorded call again: an engine in one mode, behind one protocol.

Knows the protocol and how a run is named on the command line. Does not know engines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from ..calls import Answer, RecordedCall, Times, Usage
from ..refusals import RunRefused

LOCAL: Final = "local"
RECORDED: Final = "recorded"
"""The present engine: what the log says of it. It is measured by nobody here."""
_REMOTE: Final = re.compile(r"(?P<name>[\w.-]+)=(?P<url>https?://.+):(?P<kind>[a-z][a-z0-9-]*)(?:/(?P<mode>[\w:]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a target answered, and at what cost."""

    answer: Answer
    times: Times
    usage: Usage = field(default_factory=Usage)


class Target(Protocol):
    """One engine in one mode. `name`: that of the run; `engine`: targets of one engine share its machine.

    `identity`: a digest of what answers, so that results of other weights or servers are not taken for its own.
    `settings`: what a policy has to say for calls to be decoded so, None where no policy of ours decides it.
    """

    @property
    def name(self) -> str: ...
    @property
    def engine(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def settings(self) -> Mapping[str, Any] | None: ...

    def prepare(self, call: RecordedCall) -> None:
        """Does, unmeasured, what is done once for many calls, such as compiling a schema. Raises TrimodeError."""
        ...

    def answer(self, call: RecordedCall) -> Reply:
        """Answers the call. Raises TrimodeError where it cannot."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunName:
    """A `--run` as it was given. `url`, `kind`: of a remote engine, else empty. `mode`: empty for the engine's own."""

    name: str
    engine: str
    mode: str = ""
    url: str = ""
    kind: str = ""


def run_named(given: str) -> RunName:
    """Reads `local:MODE`, `recorded` or `NAME=URL:KIND[/MODE]`. Raises RunRefused."""
    if given == RECORDED:
        return RunName(name=RECORDED, engine=RECORDED)
    engine, _, mode = given.partition(":")
    if engine == LOCAL and mode:
        return RunName(name=given, engine=LOCAL, mode=mode)
    if (found := _REMOTE.fullmatch(given)) is not None:
        name, mode = found["name"], found["mode"] or ""
        if name in (LOCAL, RECORDED):
            raise RunRefused(f"--run {given}: {name!r} is taken; give the remote engine another name")
        shown = f"{name}:{mode}" if mode else name
        return RunName(name=shown, engine=name, mode=mode, url=found["url"], kind=found["kind"])
    raise RunRefused(
        f"--run {given}: expected local:MODE (such as local:ar, local:linear_spec:8 or local:auto), {RECORDED}, or "
        "NAME=URL:KIND (such as gpu=http://127.0.0.1:8000/v1:vllm)"
    )


def runs_named(given: Sequence[str]) -> list[RunName]:
    """Reads all of them. Raises RunRefused for none, and for two of one name."""
    found = [run_named(one) for one in given]
    names = [one.name for one in found]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise RunRefused(f"--run {doubled[0]} is given twice")
    if not [name for name in names if name != RECORDED]:
        raise RunRefused("no --run: name at least one engine and mode, such as --run local:ar --run local:auto")
    return found
