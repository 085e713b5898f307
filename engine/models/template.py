"""A checkpoint's chat template: what it writes of a conversation, and what it has no place for.

Knows jinja and the variables that templates are given. Does not know tokens. Whether a template shows something is
found by asking it: it renders a short conversation that holds the thing, and the text is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Final

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from ..errors import RequestError

Message = Mapping[str, Any]
_PROBE: Final = "trimodeprobe"
_ID: Final = "probe0id9"
"""Nine letters and digits: some templates refuse other ids."""
_BROKEN: Final = (TemplateError, TypeError, ValueError, LookupError, AttributeError)
"""What a template raises, on purpose or because it was written for other messages."""
_USER: Final = {"role": "user", "content": "x"}


class ChatTemplate:
    """`source`: the jinja text, or None. `special`: markers by the names that templates call them."""

    def __init__(self, chat: PreTrainedTokenizerFast, source: str | None, special: Mapping[str, str]) -> None:
        self._chat = chat
        self.source: str | None = source
        self.special: dict[str, str] = dict(special)
        self.shows_key: Callable[[str, str], bool] = lru_cache(maxsize=256)(self._shows_key)

    def render(self, messages: Sequence[Message], **variables: Any) -> str:
        """The conversation as the template writes it. Raises RequestError where the template refuses it."""
        words: dict[str, Any] = {**self.special, **variables}
        try:
            rendered = self._chat.apply_chat_template([dict(message) for message in messages], tokenize=False, **words)
        except _BROKEN as error:
            said = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
            raise RequestError(f"the chat template refuses these messages: {said}") from None
        return str(rendered)

    @cached_property
    def shows_tools(self) -> bool:
        """Whether `tools` have a place."""
        parameters = {"type": "object", "properties": {}}
        function = {"name": _PROBE, "description": "x", "parameters": parameters}
        return self._writes([_USER], tools=[{"type": "function", "function": function}])

    @cached_property
    def shows_calls(self) -> bool:
        """Whether the `tool_calls` of an assistant's message have a place."""
        return self._writes(_talk(""))

    @cached_property
    def shows_calls_beside_text(self) -> bool:
        """Whether one message may hold a text and calls, and both are written."""
        return self.shows_calls and "trimodetext" in self._written(_talk("trimodetext"))

    @cached_property
    def shows_system(self) -> bool:
        """Whether a system message may come first."""
        return self._writes([{"role": "system", "content": _PROBE}, _USER])

    def names(self, word: str) -> bool:
        """Whether the template speaks of `word` at all."""
        return re.search(rf"\b{re.escape(word)}\b", self.source or "") is not None

    def _shows_key(self, role: str, key: str) -> bool:
        """Whether something is written of the value of `key` in a message of this role."""
        message = {"role": role, "content": "y", key: _PROBE}
        return any(self._writes([*before, message]) for before in ([], [_USER]))

    def _writes(self, messages: Sequence[Message], **variables: Any) -> bool:
        return _PROBE in self._written(messages, **variables)

    def _written(self, messages: Sequence[Message], **variables: Any) -> str:
        try:
            return self.render(messages, **variables)
        except RequestError:
            return ""


def _talk(text: str) -> list[Message]:
    call = {"id": _ID, "type": "function", "function": {"name": _PROBE, "arguments": {}}}
    return [
        _USER,
        {"role": "assistant", "content": text, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": _ID, "content": "y"},
    ]
