"""A checkpoint's chat template: what it writes of a conversation, and what it has no place for.

Knows jinja and the variables that templates are given. Does not know tokens. Whether a template shows something is
found by asking it: it renders a short conversation that holds the thing, and the text is looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Final

from jinja2 import TemplateError
from tokenizers import Tokenizer as RawTokenizer
from tokenizers.models import BPE
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

    def __init__(self, source: str | None, special: Mapping[str, str]) -> None:
        # A tokenizer without tokens, because transformers copies the one that it is given and templates use none.
        self._chat = PreTrainedTokenizerFast(tokenizer_object=RawTokenizer(BPE()), chat_template=source)
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
    def call_frame(self) -> tuple[str, str, str] | None:
        """What is written before, between and after the JSON texts of two calls, {"name": ..., "arguments": {...}}.

        None where calls are not shown, or in another form. The first text begins where that of an answer would, after
        what the template writes before both, such as an empty <think></think>; else where the model is asked to write.
        """
        try:
            asked = self.render([_USER], add_generation_prompt=True)
            spoken = self.render([_USER, {"role": "assistant", "content": _PROBE}])
            calls = self.render(_talk("", _PROBE, f"{_PROBE}two")[:2])
        except RequestError:
            return None
        opening, _, ending = spoken.rpartition(_PROBE)
        begin = next((len(one) for one in (opening, asked) if calls.startswith(one)), None)
        if begin is None or not calls.endswith(ending):
            return None
        return _frame(calls[begin : len(calls) - len(ending)], [_PROBE, f"{_PROBE}two"])

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


def _talk(text: str, *names: str) -> list[Message]:
    """A user's message, an assistant's with calls of tools `names`, and the answer to the first of them."""
    functions = [{"name": name, "arguments": {}} for name in names or (_PROBE,)]
    ids = [_ID, *(f"{_ID[:-1]}{at}" for at in range(len(functions) - 1))]
    calls = [{"id": own, "type": "function", "function": one} for own, one in zip(ids, functions, strict=True)]
    return [
        _USER,
        {"role": "assistant", "content": text, "tool_calls": calls},
        {"role": "tool", "tool_call_id": _ID, "content": "y"},
    ]


def _frame(text: str, names: Sequence[str]) -> tuple[str, str, str] | None:
    """Returns the texts around the calls of tools `names` in `text`, two calls without arguments; None if they are not
    found."""
    around, at = list[str](), 0
    for name in names:
        begin = text.find("{", at)
        try:
            call, end = json.JSONDecoder().raw_decode(text, begin) if begin >= 0 else (None, 0)
        except ValueError:
            return None
        if call is None or {**call, "id": None} != {"name": name, "arguments": {}, "id": None}:
            return None
        around, at = [*around, text[at:begin]], end
    return around[0], around[1], text[at:]
