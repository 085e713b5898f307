"""Recorded agent episodes as chat messages.

Knows the record format of `agent_episodes` (one JSON object a line, gzip, a sibling registry of tools and schemas).
Yields, for each step that the model has to write, the conversation so far. Does not know models, tokens or decoding.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

from trimode.engine.errors import TrimodeError
from trimode.policy.json_schema import canonical

MODEL_STEPS: Final = ("plan", "tool_call", "json", "prose")

Json = Any
Message = dict[str, Json]
Tool = dict[str, Json]


@dataclass(frozen=True, slots=True)
class Registry:
    """Tools by name and JSON Schemas by id, shared by the episodes of one file."""

    tools: dict[str, Tool] = field(default_factory=dict)
    schemas: dict[str, Json] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Registry:
        with _reading(path, "a registry of tools and schemas"), gzip.open(path, "rt", encoding="utf-8-sig") as file:
            record = json.load(file)
            return cls(tools=record["tools"], schemas=record["schemas"])


@dataclass(frozen=True, slots=True)
class Step:
    """One step that the model has to write, and the recorded text (`target`)."""

    index: int
    kind: str
    target: str
    history: tuple[Message, ...]
    schema: Json | None = None


@dataclass(frozen=True, slots=True)
class Episode:
    """One recorded conversation. `messages`: inputs and model steps in order; a model step has a `kind`."""

    id: str
    source: str
    tools: tuple[Tool, ...]
    messages: tuple[Message, ...]

    def steps(self) -> Iterator[Step]:
        """Yields each model step with the recorded conversation before it."""
        for index, message in enumerate(self.messages):
            if "kind" in message:
                yield Step(
                    index, message["kind"], message["content"], self.messages[:index], schema=message.get("schema")
                )


def _message(step: dict[str, Json], registry: Registry) -> Message:
    match step["kind"]:
        case "user":
            return {"role": "user", "content": step["text"]}
        case "observation":
            return {"role": "tool", "content": canonical(step["value"])}
        case "tool_call":
            content = canonical({"name": step["name"], "arguments": step["arguments"]})
            return {"role": "assistant", "kind": "tool_call", "content": content}
        case "json":
            schema = registry.schemas[step["schema"]]
            return {"role": "assistant", "kind": "json", "content": canonical(step["value"]), "schema": schema}
        case "plan" | "prose" as kind:
            return {"role": "assistant", "kind": kind, "content": step["text"]}
        case other:
            raise ValueError(f"unknown step kind {other!r}; known: user, observation, {', '.join(MODEL_STEPS)}")


def episode(record: dict[str, Json], registry: Registry) -> Episode:
    """Reads one record of the file. A plain-text record (no steps) is one prose step without a conversation."""
    if "steps" not in record:
        message = {"role": "assistant", "kind": "prose", "content": record["text"]}
        return Episode(record["id"], record["source"], (), (message,))
    context = [{"role": "system", "content": record["context"]}] if record.get("context") else []
    return Episode(
        id=record["id"],
        source=record["source"],
        tools=tuple(registry.tools[name] for name in record["tools"]),
        messages=(*context, *(_message(step, registry) for step in record["steps"])),
    )


def registry_path(path: Path) -> Path:
    """Returns `NAME.registry.json.gz` for `NAME.jsonl.gz`, in the same folder."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".jsonl") + ".registry.json.gz")


def read_episodes(path: Path, registry: Path | None = None) -> Iterator[Episode]:
    """Yields the episodes of one file, in order. Without a registry file, episodes may name no tool or schema. Raises
    TrimodeError."""
    sibling = registry or registry_path(path)
    names = Registry.load(sibling) if registry or sibling.exists() else Registry()
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig", newline="\n") as file:
        for number in count(1):
            with _reading(path, f"an episode in line {number}"):
                line = file.readline()
                if not line:
                    return
                found = episode(json.loads(line), names)
            yield found


@contextmanager
def _reading(path: Path, what: str) -> Generator[None]:
    """Turns every error in the file's content into a TrimodeError that names the file and what was expected."""
    try:
        yield
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else str(error)
        raise TrimodeError(f"{path}: expected {what}: {reason}") from None
