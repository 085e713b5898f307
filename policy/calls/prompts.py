"""The prompt of a call as token ids: raw text, ids as given, or messages rendered by the chat template.

Knows the tokenizer, and the context window that prompt and output share. Does not know grammars or decoding. A prompt
that cannot fit is refused by the length of its text, before it is tokenized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimode.engine.errors import PromptTooLong, RequestError
from trimode.engine.models.config import ModelConfig
from trimode.engine.models.tokenizer import Tokenizer

from ..conversation import Conversation, Message, Trim, check_shown, conversation_of, marker_note, trimmed
from ..schema import Schema
from .call import Call


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of a prompt. `notes`: how they differ from what the caller passed."""

    ids: list[int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptWriter:
    """Tokenizes the prompts of calls for one checkpoint."""

    tokenizer: Tokenizer
    config: ModelConfig

    def prompt(self, call: Call, reserved: int = 0, trim: Trim | None = None) -> Prompt:
        """Returns the prompt of `call`. Raises RequestError or PromptTooLong.

        `reserved`: tokens of the context that are kept free for the output. `trim`: how to shorten a conversation.
        """
        given = [call.prompt is not None, call.prompt_ids is not None, bool(call.messages)]
        if sum(given) != 1:
            raise RequestError("pass one of prompt=, prompt_ids= and messages=, and no other beside it")
        if call.messages:
            return self._chat(call, reserved, trim)
        notes = ["tools were not shown: only messages= have a template that shows them"] if call.tools else []
        if call.prompt_ids is not None:
            return Prompt(self._checked_ids(call.prompt_ids), tuple(notes))
        assert call.prompt is not None
        self._check_length([call.prompt], reserved)
        if (marker := self.tokenizer.marker_in(call.prompt)) is not None:
            notes.append(
                f"{marker_note('prompt', marker)}; prompt_ids=engine.tokenize(text, markup=True) reads it as one"
            )
        return Prompt(self.tokenizer.encode_prompt(call.prompt), tuple(notes))

    def _checked_ids(self, ids: Sequence[int]) -> list[int]:
        size = self.config.vocab_size
        wrong = next((token for token in ids if not 0 <= token < size), None)
        if wrong is not None:
            raise RequestError(f"prompt_ids holds {wrong}: expected ids from 0 to {size - 1}")
        return list(ids)

    def _check_length(self, texts: Sequence[str], reserved: int) -> None:
        least, context = sum(map(self.tokenizer.fewest, texts)), self.config.max_position_embeddings
        if least > context:  # a prompt that may fit is tokenized and counted later
            raise PromptTooLong(least, reserved, context, at_least=True)

    def _chat(self, call: Call, reserved: int, trim: Trim | None) -> Prompt:
        if trim is None:
            self._check_length([message["content"] for message in call.messages], reserved)
        whole = self._conversation(call, call.messages)
        if trim is None:
            return Prompt(self._encoded(call, whole), whole.notes)
        kept, left = trimmed(call.messages, lambda messages: self._fits(call, messages, reserved))
        if not left:
            return Prompt(self._encoded(call, whole), whole.notes)
        self._check_length([message["content"] for message in kept], reserved)
        context = self.config.max_position_embeddings
        note = f"the oldest {left} of {len(call.messages)} messages were left out (trim): context of {context} tokens"
        return Prompt(self._encoded(call, self._conversation(call, kept)), (*whole.notes, note))

    def _conversation(self, call: Call, messages: Sequence[Message]) -> Conversation:
        return conversation_of(self.tokenizer, messages, call.tools, None if call.turn is None else call.turn.format)

    def _fits(self, call: Call, messages: Sequence[Message], reserved: int) -> bool:
        available = self.config.max_position_embeddings - reserved
        if sum(self.tokenizer.fewest(message["content"]) for message in messages) > available:
            return False
        return len(self._encoded(call, self._conversation(call, messages))) <= available

    def _encoded(self, call: Call, conversation: Conversation) -> list[int]:
        messages, kind = conversation.messages, call.kind
        if call.continued:
            messages = (*messages[:-1], {"kind": kind, **messages[-1]})
        variables: dict[str, Any] = {
            "add_generation_prompt": not call.continued,
            "kind": _shown_kind(call),
        }
        if conversation.tools:
            variables["tools"] = [{"type": "function", "function": tool} for tool in conversation.tools]
        schema = call.schema if kind == "json" else call.turn.answer if call.turn is not None else None
        if isinstance(schema, Schema):
            variables["schema"] = schema.document
        if call.plan.settings.max_thinking_tokens is not None and kind != "choice":
            variables["enable_thinking"] = True
        pieces = self.tokenizer.pieces(messages, **variables)
        rendered = [piece.message for piece in pieces]
        check_shown(messages, set(rendered))
        if call.continued:  # drop what the template writes after the last message, because it would end the message
            last = len(messages) - 1
            pieces = pieces[: len(rendered) - rendered[::-1].index(last)]
        return [token for piece in pieces for token in piece.ids]


def _shown_kind(call: Call) -> str:
    """Returns the kind of message that the template is told to open. Templates that know kinds know those of messages:
    a choice is plain text, and a turn too, unless it has to be a call."""
    if call.turn is not None:
        return "tool_call" if call.turn.choice == "required" else call.turn.segment_kinds[0]
    return "prose" if call.kind == "choice" else call.kind
