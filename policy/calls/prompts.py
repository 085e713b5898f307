"""The prompt of a call in token ids: raw text, ids as given, or messages through the chat template.

Knows the tokenizer, and the context that prompt and output share. Does not know grammars or how tokens are found. What
cannot fit is refused from the length of the text alone, before anything is encoded.
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
    """`notes`: what the model sees otherwise than it was given."""

    ids: list[int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptWriter:
    tokenizer: Tokenizer
    config: ModelConfig

    def prompt(self, call: Call, room: int = 0, trim: Trim | None = None) -> Prompt:
        """`room`: tokens that the output takes of the context. Raises RequestError, PromptTooLong."""
        given = [call.prompt is not None, call.prompt_ids is not None, bool(call.messages)]
        if sum(given) != 1:
            raise RequestError("pass one of prompt=, prompt_ids= and messages=, and no other beside it")
        if call.messages:
            return self._chat(call, room, trim)
        notes = ["tools were not shown: only messages= have a template that shows them"] if call.tools else []
        if call.prompt_ids is not None:
            return Prompt(self._checked_ids(call.prompt_ids), tuple(notes))
        assert call.prompt is not None
        self._check_length([call.prompt], room)
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

    def _check_length(self, texts: Sequence[str], room: int) -> None:
        least, context = sum(map(self.tokenizer.fewest, texts)), self.config.max_position_embeddings
        if least > context:  # where it could fit, the tokens are counted
            raise PromptTooLong(least, room, context, at_least=True)

    def _chat(self, call: Call, room: int, trim: Trim | None) -> Prompt:
        if trim is None:
            self._check_length([message["content"] for message in call.messages], room)
        whole = conversation_of(self.tokenizer, call.messages, call.tools)
        if trim is None:
            return Prompt(self._encoded(call, whole), whole.notes)
        kept, left = trimmed(call.messages, lambda messages: self._fits(call, messages, room))
        if not left:
            return Prompt(self._encoded(call, whole), whole.notes)
        self._check_length([message["content"] for message in kept], room)
        context = self.config.max_position_embeddings
        note = f"the oldest {left} of {len(call.messages)} messages were left out (trim): context of {context} tokens"
        return Prompt(self._encoded(call, conversation_of(self.tokenizer, kept, call.tools)), (*whole.notes, note))

    def _fits(self, call: Call, messages: Sequence[Message], room: int) -> bool:
        free = self.config.max_position_embeddings - room
        if sum(self.tokenizer.fewest(message["content"]) for message in messages) > free:
            return False
        return len(self._encoded(call, conversation_of(self.tokenizer, messages, call.tools))) <= free

    def _encoded(self, call: Call, conversation: Conversation) -> list[int]:
        messages, kind = conversation.messages, call.kind
        if call.continued:
            messages = (*messages[:-1], {"kind": kind, **messages[-1]})
        variables: dict[str, Any] = {
            "add_generation_prompt": not call.continued,
            # A choice is an answer in plain text, which models were trained on.
            "kind": "prose" if kind == "choice" else kind,
        }
        if conversation.tools:
            variables["tools"] = [{"type": "function", "function": tool} for tool in conversation.tools]
        if isinstance(call.schema, Schema) and kind == "json":
            variables["schema"] = call.schema.document
        if call.plan.settings.max_thinking_tokens is not None and kind != "choice":
            variables["enable_thinking"] = True
        pieces = self.tokenizer.pieces(messages, **variables)
        places = [piece.message for piece in pieces]
        check_shown(messages, set(places))
        if call.continued:  # what the template writes behind the last message would end it
            last = len(messages) - 1
            pieces = pieces[: len(places) - places[::-1].index(last)]
        return [token for piece in pieces for token in piece.ids]
