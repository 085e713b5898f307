"""A peer's own process, run as a module: its setup is an argument, JSON lines come and go on standard input and output.

Knows which module runs which peer. Imports nothing else of ours: what the process keeps in memory is the peer's.
Whatever libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from . import peer_protocol as protocol


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for said in answers(protocol.setup_of(json.loads(sys.argv[1])), sys.stdin):
        out.write(said)
        out.flush()


def answers(setup: protocol.Setup, lines: TextIO) -> Iterator[str]:
    """What the process writes: that it is ready, an answer to each line, and its memory at the end."""
    try:
        engine = started(setup)
    except protocol.CannotRun as error:
        yield protocol.line("refused", str(error))
        return
    yield protocol.line("ready", {"version": engine.version, "setting": engine.setting})
    for text in lines:
        kind, fields = protocol.message(text)
        if kind == "stop":
            yield protocol.line("stopped", {"resident_bytes": resident(engine.pid)})
            return
        try:
            yield protocol.line("answered", engine.run(protocol.asked_of(fields)))
        except protocol.CannotRun as error:
            yield protocol.line("refused", str(error))


def started(setup: protocol.Setup) -> protocol.PeerEngine:
    """The peer's engine. Raises CannotRun where it is not installed, or does not load these weights."""
    try:
        module: Any = import_module(f"{__package__}.with_{setup.peer.replace('-', '_')}")
    except ModuleNotFoundError as error:
        raise protocol.CannotRun(f"{error.name} is not installed: pip install 'trimode[bench]'") from None
    try:
        engine: protocol.PeerEngine = module.start(setup)
    except RuntimeError as error:  # what these libraries raise for files that they cannot read
        raise protocol.CannotRun(f"does not load these weights: {short(error)}") from None
    return engine


def short(error: Exception) -> str:
    """The last line of an error of a C++ library, which says what went wrong; those before say where."""
    lines = [text.strip() for text in str(error).splitlines() if text.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def resident(pid: int | None = None) -> int:
    """Bytes that a process, this one if none is given, had in memory at most."""
    status = Path(f"/proc/{pid or 'self'}/status")
    fields = status.read_text().splitlines() if status.exists() else []
    return next((int(text.split()[1]) << 10 for text in fields if text.startswith("VmHWM:")), 0)


if __name__ == "__main__":
    main()
