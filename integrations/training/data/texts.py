"""Training texts from files: conversations, episodes, plain text, and ids that the base wrote.

Knows the formats of lines. Does not know tokenizers or models. A `.jsonl` (also `.jsonl.gz`) has one object a line:

- `{"messages": [...], "tools": [...]}`, messages as OpenAI's API takes them;
- an episode of `trimode eval`, with a registry of tools and schemas beside the file;
- `{"text": ...}`, plain text;
- `{"ids": [...], "own": [[first, end], ...], "answers": [{"at", "ids", "forced"}]}`, as `--sample-from-base` writes.

Every other file is one plain text.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from trimode.engine.errors import TrimodeError
from trimode.policy.conversation import checked_messages, checked_text

from ...bench.episodes import Episode, Registry, episode, registry_path
from ..errors import DataError
from .samples import Answer, Sample

Text = Episode | Sample | str
_FORMS: Final = "expected an object with messages, steps, text or ids"


def read_texts(path: Path) -> Iterator[Text]:
    """Yields the texts of one file in order. Raises DataError, which names file and line."""
    try:
        if not path.name.removesuffix(".gz").endswith(".jsonl"):
            yield checked_text(path.read_text(encoding="utf-8"), str(path))
            return
        registry = Registry.load(found) if (found := registry_path(path)).exists() else Registry()
        opener: Any = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _at_line(line, registry, f"{path}, line {number}")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _at_line(line: str, registry: Registry, origin: str) -> Text:
    try:
        return _text(json.loads(line), registry, origin)
    except LookupError as error:
        raise DataError(f"{origin}: {type(error).__name__}: {error}") from None
    except (ValueError, TypeError, AttributeError, TrimodeError) as error:
        raise DataError(f"{origin}: {error}") from None


def _text(record: Any, registry: Registry, origin: str) -> Text:
    match record:
        case {"messages": messages, **rest}:
            return chat(messages, rest.get("tools") or (), origin)
        case {"steps": list()}:
            return episode(record, registry)
        case {"ids": list()}:
            return own_text(record)
        case {"text": text}:
            return checked_text(text, "text")
        case _:
            raise ValueError(f"{_FORMS}, found {str(record)[:60]!r}")


def chat(messages: Any, tools: Any, origin: str) -> Episode:
    """Returns a conversation as an episode, whose model steps are the assistant's messages. Raises RequestError."""
    shown = tuple(one.get("function", one) for one in tools)
    found = [
        {**one, "kind": "tool_call" if one.get("tool_calls") and shown else "prose"}
        if one["role"] == "assistant"
        else one
        for one in checked_messages(messages)
    ]
    if not any("kind" in one for one in found):
        raise ValueError("no message of the assistant, so there is nothing to learn")
    return Episode(id=origin, source="chat", tools=shown, messages=tuple(found))


def own_text(record: dict[str, Any]) -> Sample:
    """Returns the sample of a line with ids. Raises ValueError."""
    ids = _ids(record["ids"], "ids")
    own = np.zeros(len(ids), np.bool_)
    for first, end in record.get("own", []):
        if not 0 <= first <= end <= len(ids):
            raise ValueError(f"own holds [{first}, {end}], and there are {len(ids)} ids")
        own[first:end] = True
    return Sample(ids, own, tuple(_answer(one, len(ids)) for one in record.get("answers", [])))


def _answer(record: dict[str, Any], trunk: int) -> Answer:
    ids, at = _ids(record["ids"], "ids of an answer"), record["at"]
    if not isinstance(at, int) or not 1 <= at <= trunk:
        raise ValueError(f"an answer begins at {at!r}: expected 1 to {trunk}, the number of ids before it")
    forced = np.zeros(len(ids), np.bool_)
    forced[list(record.get("forced", []))] = True
    return Answer(at, ids, forced)


def _ids(given: Any, what: str) -> np.ndarray[Any, np.dtype[np.int32]]:
    if not isinstance(given, list) or not given or not all(type(one) is int and 0 <= one < 2**31 for one in given):
        raise ValueError(f"{what}: expected a list of token ids, found {str(given)[:60]}")
    return np.asarray(given, np.int32)


def as_record(sample: Sample, runs: list[tuple[int, int]]) -> dict[str, Any]:
    """Returns the line that `own_text` reads as `sample`, whose own runs are `runs`."""
    answers = [
        {"at": one.at, "ids": one.ids.tolist(), "forced": np.flatnonzero(one.forced).tolist()} for one in sample.answers
    ]
    return {"ids": sample.ids.tolist(), "own": runs, "answers": answers}
