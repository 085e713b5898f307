"""The answer of one call, as the events of its stream come.

Knows the chunks of OpenAI's chat and completion streams, and the fields that servers add. Does not know transport.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trimode.policy.audit import Reported
from trimode.policy.remote import AnswerGarbled, CallText, ServerFailed, TextUpdate

from ..transport.faults import message_of


@dataclass(slots=True)
class AnswerReader:
    """Collects text, thinking, calls, counts and the reason for the end. `extra`: fields that only some servers send,
    such as `timings`, by name, the last value of each."""

    pool: str
    text: str = ""
    thinking: str = ""
    finish: str | None = None
    model: str | None = None
    response_id: str | None = None
    fingerprint: str | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    _calls: dict[int, CallText] = field(default_factory=dict)

    @property
    def calls(self) -> tuple[CallText, ...]:
        return tuple(self._calls[index] for index in sorted(self._calls))

    @property
    def update(self) -> TextUpdate:
        return TextUpdate((), (), text=self.text, thinking=self.thinking, calls=self.calls)

    def feed(self, event: Any) -> bool:
        """Takes one chunk; returns whether the answer grew. Raises AnswerGarbled, and ServerFailed for an error."""
        if not isinstance(event, dict):
            raise AnswerGarbled(self.pool, f"an event that is no object: {str(event)[:80]!a}")
        if event.get("error"):
            raise ServerFailed(self.pool, 0, message_of(_bytes(event)))
        choices = event.get("choices")
        if not isinstance(choices, list):
            raise AnswerGarbled(self.pool, f"an event without choices: {sorted(event)[:8]}")
        self._about(event)
        try:
            grown = [self._choice(choice) for choice in choices if choice.get("index", 0) == 0]
        except (AttributeError, TypeError, KeyError, ValueError) as error:
            raise AnswerGarbled(self.pool, f"a chunk with fields of other types ({error})") from None
        return any(grown)

    def _about(self, event: Mapping[str, Any]) -> None:
        self.model = _text(event.get("model")) or self.model
        self.response_id = _text(event.get("id")) or self.response_id
        self.fingerprint = _text(event.get("system_fingerprint")) or self.fingerprint
        if isinstance(event.get("usage"), Mapping):
            self.usage = event["usage"]
        for name in ("timings", "metrics", "meta_info", "trimode"):
            if isinstance(event.get(name), Mapping):
                self.extra[name] = event[name]

    def _choice(self, choice: Mapping[str, Any]) -> bool:
        delta = choice.get("delta") or choice.get("message") or {}
        text = delta.get("content") or choice.get("text") or ""
        thinking = delta.get("reasoning_content") or delta.get("reasoning") or ""
        self.text += text
        self.thinking += thinking
        calls = delta.get("tool_calls") or ()
        for number, part in enumerate(calls):
            self._call(part, number)
        if choice.get("finish_reason"):
            self.finish = str(choice["finish_reason"])
        if isinstance(choice.get("trimode"), Mapping):
            self.extra["trimode"] = choice["trimode"]
        return bool(text or thinking or calls)

    def _call(self, part: Mapping[str, Any], number: int) -> None:
        index, function = int(part.get("index", number)), part.get("function") or {}
        known = self._calls.get(index, CallText(name="", arguments=""))
        given = function.get("arguments") or ""
        self._calls[index] = CallText(
            name=known.name or str(function.get("name") or ""),
            arguments=known.arguments + (given if isinstance(given, str) else _json(given)),
            id=known.id or str(part.get("id") or ""),
        )


def usage_of(usage: Mapping[str, Any]) -> Reported:
    """Returns OpenAI's usage as counts; what is not there is None."""
    prompt, completion = _mapping(usage, "prompt_tokens_details"), _mapping(usage, "completion_tokens_details")
    accepted, rejected = (
        count(completion, "accepted_prediction_tokens"),
        count(completion, "rejected_prediction_tokens"),
    )
    both = accepted is not None and rejected is not None
    return Reported(
        prompt_tokens=count(usage, "prompt_tokens"),
        cached_tokens=count(prompt, "cached_tokens"),
        output_tokens=count(usage, "completion_tokens"),
        thinking_tokens=count(completion, "reasoning_tokens"),
        accepted=accepted if both else None,
        drafted=(accepted or 0) + (rejected or 0) if both else None,
    )


def count(found: Mapping[str, Any], name: str) -> int | None:
    """Returns a count, or None where there is none."""
    value = found.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def seconds(found: Mapping[str, Any], name: str, unit: float = 1e-3) -> float | None:
    """Returns a duration in seconds, or None where there is none. `unit`: of the field, in seconds."""
    value = found.get(name)
    return value * unit if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None


def counts(found: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    """Returns a list of counts, or None where there is none."""
    value = found.get(name)
    fits = isinstance(value, list) and all(isinstance(one, int) for one in value)
    return tuple(value) if fits and value is not None else None


def _mapping(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = found.get(name)
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _json(value: Any) -> str:
    return json.dumps(value)


def _bytes(event: Any) -> bytes:
    return _json(event).encode()
