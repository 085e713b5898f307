"""How parameters that several APIs share become parts of an `Ask`: sampling, thinking, formats, the policy asked for.

Knows the shared models of `wire.py`. Does not know one API's request from another's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Sized
from typing import Any, Final, Protocol

from ..asks.ask import PolicyAsked
from ..refusals import BadParameter
from .base import NAME, ResponseFormat, TrimodeOptions

DEFAULT_TOKENS: Final = 256
"""Output tokens where neither the request nor a policy says a number: the engine's own default."""
EFFORTS: Final[Mapping[str, int]] = {"minimal": 1, "low": 2, "medium": 4, "high": 6, "xhigh": 7}
"""Eighths of the output tokens that a reasoning effort may think with; "none" does not think."""
_SEEDS: Final = 1 << 64


class Sampled(Protocol):
    """The sampling parameters that all requests have."""

    @property
    def seed(self) -> int | None: ...
    @property
    def temperature(self) -> float | None: ...
    @property
    def top_p(self) -> float | None: ...
    @property
    def top_k(self) -> int | None: ...
    @property
    def stop(self) -> str | list[str] | None: ...


def sampling(request: Sampled, max_tokens: int | None) -> dict[str, Any]:
    """Returns the sampling parameters that the request sets, as options of a call."""
    stops = [request.stop] if isinstance(request.stop, str) else request.stop
    found = {
        "seed": None if request.seed is None else request.seed % _SEEDS,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": stops or None,
        "max_tokens": max_tokens,
    }
    return {name: value for name, value in found.items() if value is not None}


def thinking_budget(effort: str | None, max_tokens: int | None) -> dict[str, Any]:
    """Returns the thinking budget of a reasoning effort, as an option of a call."""
    if effort is None or effort == "none":
        return {}
    return {"max_thinking_tokens": (max_tokens or DEFAULT_TOKENS) * EFFORTS[effort] // 8}


def schema_of_format(given: ResponseFormat | None, param: str) -> Any:
    """Returns the JSON Schema of a response format; None for plain text."""
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return {"type": "object"}
    if given.json_schema is None:
        raise BadParameter(f"{param}: json_schema is missing", f"{param}.json_schema")
    return given.json_schema.schema_


def asked_policy(
    body: TrimodeOptions | None, headers: TrimodeOptions, metadata: Mapping[str, str] | None
) -> PolicyAsked:
    """Returns the policy asked for in the body, completed from headers and metadata.

    Raises BadParameter where body and headers differ, and for a step's name in the metadata that is none.
    """
    said = {} if body is None else body.model_dump(exclude_none=True)
    for name, value in headers.model_dump(exclude_none=True).items():
        if said.setdefault(name, value) != value:
            raise BadParameter(f"trimode.{name} and its header differ; leave one of them out", f"trimode.{name}")
    step = said.pop("step", None) or _step_of(metadata or {})
    return PolicyAsked(kind=said.pop("kind", None), step=step, policy=said.pop("policy", None), settings=said)


def _step_of(metadata: Mapping[str, str]) -> str | None:
    key = next((key for key in ("step", "step_name") if metadata.get(key)), None)
    if key is not None and not re.fullmatch(NAME, metadata[key]):
        raise BadParameter(
            f"metadata.{key} names the step: expected at most 256 characters in one line", f"metadata.{key}"
        )
    return None if key is None else metadata[key]


def within(given: Sized, most: int, name: str) -> None:
    """Raises BadParameter for a list that is longer than the server takes."""
    if len(given) > most:
        raise BadParameter(f"{name}: {len(given)} of them, at most {most}", name)


def named_tool(name: str | None, known: Sequence[str], param: str) -> str | None:
    """Returns the name of the tool that has to be called. Raises BadParameter for one that is not there."""
    if name is not None and name not in known:
        raise BadParameter(f"tool_choice: no tool is named {name[:64]!r}; known: {', '.join(known)}", param)
    return name
