"""Texts as samples of one base: rendered by its chat template and encoded by its tokenizer.

Knows the tokenizer. Does not know models. A conversation is rendered as calls are, so the model's tokens begin where a
call would ask for them, and end with the token that ends a turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimode.engine.models.config import ModelConfig
from trimode.engine.models.tokenizer import Tokenizer
from trimode.policy.conversation import conversation_of

from ...bench.episodes import Episode
from ..errors import DataError
from .samples import Sample
from .texts import Text


@dataclass(frozen=True, slots=True)
class Renderer:
    """Makes samples of at most `context` tokens."""

    tokenizer: Tokenizer
    config: ModelConfig
    context: int

    def samples(self, text: Text) -> Iterator[Sample]:
        """Yields the samples of a text that hold tokens of the model. Raises DataError for ids of another vocabulary
        and for conversations where the checkpoint has no template."""
        match text:
            case Sample():
                found: Sequence[Sample] = [self._checked(text)]
            case str():
                found = self._pieces(self.tokenizer.encode_prompt(text))
            case Episode(messages=({"role": "assistant", "content": str(content)},)):  # plain text
                found = self._pieces(self.tokenizer.encode_prompt(content))
            case _:
                found = [self.conversation(text)]
        yield from (one for one in found if one.own.any() or one.answers)

    def conversation(self, talk: Episode) -> Sample:
        """Returns the sample of a conversation, cut at the context."""
        if not self.tokenizer.has_template:
            raise DataError(f"{talk.id}: a conversation, and this base has no chat template; give it plain text")
        ids = self.prompt(talk, len(talk.messages), asked=False)
        own = np.zeros(len(ids), np.bool_)
        for at, message in enumerate(talk.messages):
            if message["role"] == "assistant":
                own[slice(*self._run(ids, talk, at))] = True
        return Sample(np.asarray(ids[: self.context], np.int32), own[: self.context])

    def prompt(self, talk: Episode, messages: int, asked: bool = True) -> list[int]:
        """Returns the ids of the first messages; `asked`: with what the template writes before an answer."""
        shown = conversation_of(self.tokenizer, talk.messages[:messages], talk.tools)
        variables: dict[str, Any] = {"add_generation_prompt": asked}
        if shown.tools:
            variables["tools"] = [{"type": "function", "function": tool} for tool in shown.tools]
        return self.tokenizer.encode_chat(shown.messages, **variables)

    def _run(self, ids: Sequence[int], talk: Episode, at: int) -> tuple[int, int]:
        """Returns first and end of what the model writes of message `at`; nothing where the prompt of that message is
        not the beginning of the whole text, as with templates that change earlier messages."""
        if at == 0:
            return 0, 0
        before, after = self.prompt(talk, at), self.prompt(talk, at + 1, asked=False)
        if list(ids[: len(before)]) != before or list(ids[: len(after)]) != after:
            return 0, 0
        ends = (one for one in range(len(before), len(after)) if ids[one] in self.config.eos_token_ids)
        return len(before), next(ends, len(after) - 1) + 1

    def _pieces(self, ids: Sequence[int]) -> list[Sample]:
        """Returns a plain text in pieces; of each, the first token is given."""
        pieces = [np.asarray(ids[at : at + self.context], np.int32) for at in range(0, len(ids), self.context)]
        return [Sample(piece, np.arange(len(piece)) > 0) for piece in pieces if len(piece) > 2]

    def _checked(self, sample: Sample) -> Sample:
        largest = max(int(one.max()) for one in (sample.ids, *(answer.ids for answer in sample.answers)))
        if largest >= self.config.vocab_size:
            raise DataError(f"a line of ids holds {largest}, and the base has {self.config.vocab_size}; write it again")
        return sample
