"""What `trimode bench` and a peer's own process say to each other: one JSON object a line, both ways.

Knows plain values alone, and imports nothing of ours, so that a peer's process stays as small as the peer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol


class CannotRun(Exception):
    """A peer cannot run a case; the message says why, for the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a peer is started. `gguf`: the file with the weights; `directory`: the same for transformers' readers.

    `drafts`: n-gram drafts are on. `dtype`: of our weights, fp32 or a shorter one. `ends`: ids that end a text.
    `probe`: a prompt to compare settings on. `folder`: where the peer may write.
    """

    peer: str
    gguf: str
    directory: str
    drafts: bool
    dtype: str
    threads: int
    context: int
    ends: tuple[int, ...]
    probe: tuple[int, ...]
    max_tokens: int
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One call: prompt ids, and a JSON Schema as text where the output is constrained."""

    prompt: tuple[int, ...]
    max_tokens: int
    schema: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One measured call, as `systems.Reading` has it. `passes`: None where the peer does not say."""

    ids: tuple[int, ...]
    seconds: float
    prefill_seconds: float
    decode_seconds: float
    decode_tokens: int
    passes: int | None = None


class PeerEngine(Protocol):
    """What a module of a peer makes. `version` and `setting` are printed with the results; `pid`: of the process whose
    memory is."""

    version: str
    setting: str
    pid: int

    def run(self, asked: Asked) -> Answered:
        """Raises CannotRun."""
        ...


def line(kind: str, value: Any) -> str:
    """A message of `kind`: ready, refused, asked, answered, stop or stopped."""
    fields = asdict(value) if not isinstance(value, str | dict) else value
    return json.dumps({kind: fields}) + "\n"


def message(text: str) -> tuple[str, Any]:
    """The kind and the fields of a line."""
    found: Mapping[str, Any] = json.loads(text)
    ((kind, fields),) = found.items()
    return kind, fields


def setup_of(fields: Mapping[str, Any]) -> Setup:
    return Setup(**_with_tuples(fields, "ends", "probe"))


def asked_of(fields: Mapping[str, Any]) -> Asked:
    return Asked(**_with_tuples(fields, "prompt"))


def answered_of(fields: Mapping[str, Any]) -> Answered:
    return Answered(**_with_tuples(fields, "ids"))


def _with_tuples(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The fields with the lists that JSON has for tuples as such."""
    return {**fields, **{name: tuple(fields[name]) for name in names}}
