"""Spans as OTLP's JSON, Phoenix and MLflow export them, in one form.

Knows the shapes of the three exports. Does not know what attributes mean.

- OTLP: {"resourceSpans": [{"scopeSpans": [{"spans": [...]}]}]}, in camel or snake case, one document a file or a line.
- Phoenix: {"data": [{"context": {...}, "attributes": {...}, "start_time": ...}]} of `/v1/projects/NAME/spans`, the list
  alone, or one span a line.
- MLflow: {"trace": {"spans": [...]}} of `/api/3.0/mlflow/traces/get`, and `Trace.to_json()`: {"info": ..., "data":
  {"spans": [...]}}, whose attributes are JSON texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..refusals import Unreadable
from ..values import array, mapping, text

Json = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span: its trace, its attributes by flat names, and how long it took, None where one of its times is missing."""

    trace: str
    attributes: Mapping[str, Json]
    seconds: float | None


def holds_spans(document: Json) -> bool:
    """Returns whether a JSON document is one of the exports."""
    if isinstance(document, list):
        return bool(document) and holds_spans(document[0])
    if not isinstance(document, Mapping):
        return False
    inner = document.get("data")
    if isinstance(inner, Mapping):
        return "spans" in inner
    return bool({"resourceSpans", "resource_spans", "trace", "traces", "scopeSpans"} & set(document)) or (
        "attributes" in document or (isinstance(inner, list) and (not inner or holds_spans(inner)))
    )


def spans_in(document: Json) -> Iterator[Span]:
    """Yields every span of a document. Raises Unreadable."""
    if isinstance(document, list):
        for one in document:
            yield from spans_in(one)
        return
    held = mapping(document, "document")
    for key in ("resourceSpans", "resource_spans", "scopeSpans", "scope_spans", "spans", "traces", "data", "trace"):
        if key in held:
            yield from spans_in(held[key])
            return
    if "attributes" not in held:
        raise Unreadable(f"expected a span with attributes, found the keys {', '.join(map(str, held))[:80]}")
    yield _span(held)


def _span(held: Mapping[str, Json]) -> Span:
    context = mapping(held.get("context") or held, "context")
    given = held["attributes"]
    attributes = _listed(given) if isinstance(given, list) else _flat(mapping(given, "attributes"))
    if isinstance(given, Mapping) and any(key.startswith("mlflow.") for key in attributes):
        attributes = {key: _dumped(value) for key, value in attributes.items()}
    return Span(
        trace=text(context.get("trace_id") or context.get("traceId"), "trace_id"),
        attributes=attributes,
        seconds=_seconds(held),
    )


def _listed(given: list[Json]) -> dict[str, Json]:
    """Returns OTLP's list of keys and typed values as a mapping."""
    found = [mapping(one, "attributes[]") for one in given]
    return {text(one.get("key"), "attributes[].key"): _typed(one.get("value")) for one in found}


def _typed(value: Json) -> Json:
    if not isinstance(value, Mapping) or len(value) != 1:
        return value if value else None
    ((name, held),) = value.items()
    match name.replace("_", "").lower():
        case "arrayvalue":
            return [_typed(one) for one in array(mapping(held, name).get("values"), name)]
        case "kvlistvalue":
            return _listed(list(array(mapping(held, name).get("values"), name)))
        case "intvalue":
            return int(held)
        case "stringvalue" | "doublevalue" | "boolvalue":
            return held
        case _:
            raise Unreadable(f"attributes: a value of type {name!r} is none of OTLP's")


def _flat(given: Mapping[str, Json], above: str = "") -> dict[str, Json]:
    """Returns attributes by dotted names, where an export nests them. Lists stay as they are."""
    found: dict[str, Json] = {}
    for key, value in given.items():
        name = f"{above}{key}"
        nested = isinstance(value, Mapping) and value and name.count(".") < 8
        found |= _flat(value, f"{name}.") if nested else {name: value}
    return found


def _dumped(value: Json) -> Json:
    """Returns what MLflow wrote as JSON text, and other values as they are."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _seconds(held: Mapping[str, Json]) -> float | None:
    for first, last in (("startTimeUnixNano", "endTimeUnixNano"), ("start_time_unix_nano", "end_time_unix_nano")):
        if held.get(first) and held.get(last):
            return max(0, int(held[last]) - int(held[first])) / 1e9
    begin, end = held.get("start_time"), held.get("end_time")
    if isinstance(begin, str) and isinstance(end, str):
        return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds())
    return None
