"""The part of a record that tells of a call to a server: who answered, what it reported, and what was tried before.

Knows plain values; None stands for what the server did not say. Does not know HTTP, keys or headers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, ClassVar

from pydantic import ConfigDict, JsonValue

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """Counts that the server gave. `drafted`, `accepted`, `steps`: of speculation, in all; the two `per_step` lists for
    each of its steps. `server_seconds`, `prefill_seconds`: by the server's clock."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    thinking_tokens: int | None = None
    drafted: int | None = None
    accepted: int | None = None
    steps: int | None = None
    forward_passes: int | None = None
    drafted_per_step: tuple[int, ...] | None = None
    accepted_per_step: tuple[int, ...] | None = None
    server_seconds: float | None = None
    prefill_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptMade:
    """One try at one pool. `outcome`: "answered", or the error's type; `seconds`: it took; `waited`: before it."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    pool: str
    outcome: str
    seconds: float
    waited: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteUsed:
    """The endpoint that answered, as `Capabilities` names it, and its counts. `seconds`: of the whole call, by our
    clock; `first_seconds`: to the first piece. `exactness`, `seeds`: what it promises. `scores`: by what
    means the server gave log-probabilities, of calls that ask for them.

    `request`: the call as it was asked, `answer`: thinking and calls beside the record's `text`, or the `partial` text
    of an answer that broke off. Both are content.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    pool: str
    kind: str
    method: str
    version: str | None
    model: str
    exactness: str
    seeds: str
    seconds: float
    reported: Reported
    attempts: tuple[AttemptMade, ...]
    first_seconds: float | None = None
    response_id: str | None = None
    fingerprint: str | None = None
    cut: bool = False
    held: bool | None = None
    scores: str | None = None
    request: dict[str, JsonValue] | None = None
    answer: dict[str, JsonValue] | None = None

    def redacted(self) -> RemoteUsed:
        return replace(self, request=None, answer=None)


def request_digest(request: Mapping[str, Any]) -> str:
    """Returns the sha256 of a request as canonical JSON, in hexadecimal."""
    return sha256(_canonical(request)).hexdigest()


def answer_digest(request: Mapping[str, Any], text: str, answer: Mapping[str, Any]) -> str:
    """Returns the sha256 of a request, then the answer to it. A digest of a short answer alone could be looked up."""
    return sha256(_canonical(request) + b"\n" + _canonical({**answer, "text": text})).hexdigest()


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
