"""Text to token ids and back, with the checkpoint's own tokenizer and chat template.

Knows that control markers (`<|im_end|>`, `<think>`, ...) may come from the template only: text from a caller is encoded
by a copy of the tokenizer without added tokens, so a typed marker stays text. Does not know decoding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from tokenizers import Tokenizer as RawTokenizer
from transformers import PreTrainedTokenizerFast

from ..errors import CheckpointError, RequestError
from .fields import read_object

if TYPE_CHECKING:
    from functools import _lru_cache_wrapper  # pyright: ignore[reportPrivateUsage]

Message = Mapping[str, Any]
RENDERINGS = 256
"""Number of template renderings that are cached: an agent's calls have few forms of conversation, tools and schema."""

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
_PLACEHOLDER = re.compile("\ue000([0-9]+)\ue001")


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of token ids. `message` is the index of the message whose content it is, None for template text."""

    ids: tuple[int, ...]
    message: int | None


class Tokenizer:
    """Two tokenizers: `markup` reads control markers as control tokens; `plain` reads every character as text.

    `special`: markers by the names that templates use, such as bos_token.
    """

    markup: RawTokenizer
    plain: RawTokenizer

    special: dict[str, str]
    has_template: bool

    def __init__(self, tokenizer_json: str, template: str | None, special: Mapping[str, str] | None = None) -> None:
        # Some files contain the lengths of their author's last batch, which would truncate or pad prompts here.
        fields = {**json.loads(tokenizer_json), "truncation": None, "padding": None}
        self.markup = RawTokenizer.from_str(json.dumps(fields))
        self.markers: tuple[str, ...] = tuple(token["content"] for token in fields.get("added_tokens") or [])
        self.plain = RawTokenizer.from_str(json.dumps({**fields, "added_tokens": []}))
        self._chat = PreTrainedTokenizerFast(tokenizer_object=self.markup, chat_template=template)
        self.special = dict(special or {})
        self.has_template = template is not None
        self.json = tokenizer_json
        timed = "strftime_now" in (template or "")  # a rendering with the current time must not be cached
        self.rendered: _lru_cache_wrapper[tuple[Piece | int, ...]] = lru_cache(maxsize=0 if timed else RENDERINGS)(
            self._render
        )

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Reads `tokenizer.json`, and next to it the template and the names of markers.

        The template: `chat_template.jinja`, else `tokenizer_config.json`; without one only raw prompts can be encoded.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"no tokenizer.json in {directory}; a checkpoint needs its tokenizer beside the weights"
            )
        template, special = _template(directory), _special(directory)
        try:
            return cls(path.read_text(encoding="utf-8"), template, special)
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise CheckpointError(f"{path} is not a tokenizer: {error}") from None

    @property
    def vocab_size(self) -> int:
        return self.markup.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of caller text; markers in it stay text."""
        return self.plain.encode(text, add_special_tokens=False).ids

    def encode_prompt(self, text: str) -> list[int]:
        """Returns the ids of a raw prompt: caller text with the tokenizer's own additions (Llama: a leading BOS)."""
        return self.plain.encode(text, add_special_tokens=True).ids

    def encode_chat(self, messages: Sequence[Message], **variables: Any) -> list[int]:
        """Returns the ids of the rendered conversation. `variables` go to the template (tools, kind, schema, ...)."""
        return [token for piece in self.pieces(messages, **variables) for token in piece.ids]

    def pieces(self, messages: Sequence[Message], **variables: Any) -> list[Piece]:
        """Returns the rendered conversation, split into template text and (non-empty) message contents."""
        if not self.has_template:
            raise RequestError("this checkpoint has no chat template; pass prompt= instead of messages=")
        if not all(isinstance(message.get("content"), str) for message in messages):
            raise RequestError("every message needs its content as a string")
        # Message contents are inserted after rendering, so that calls that differ only in them share a rendering.
        shapes = [{**message, "content": bool(message["content"])} for message in messages]
        parts = self.rendered(json.dumps({**variables, "messages": shapes}, ensure_ascii=False, default=str))
        return [self._content(messages, part) if isinstance(part, int) else part for part in parts]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids` without control tokens; bytes that are not UTF-8 become U+FFFD."""
        return self.markup.decode(list(ids), skip_special_tokens=True)

    def marker(self, text: str) -> int | None:
        """Returns the id of a control marker, None if this tokenizer does not have it."""
        return self.markup.token_to_id(text) if text in self.markers else None

    def token(self, token_id: int) -> str:
        """Returns the text of one token, markers included."""
        return self.markup.decode([token_id], skip_special_tokens=False)

    def _content(self, messages: Sequence[Message], index: int) -> Piece:
        return Piece(tuple(self.encode(str(messages[index]["content"]))), index)

    def _render(self, skeleton: str) -> tuple[Piece | int, ...]:
        """Returns template text as pieces, and the indices of the messages whose contents come between them.

        `skeleton`: JSON of the template's variables, in which a message's content is a bool: whether there is any.
        """
        # Everything but message contents is rendered by the template and so encoded as markup: a marker in it would
        # become a control token, and a private-use character would be taken for a placeholder.
        found = next((marker for marker in (*self.markers, "\ue000", "\ue001") if marker in skeleton), None)
        if found is not None:
            raise RequestError(
                f"tools, schema or a message's role contain the control marker {found!r}; "
                "remove it from names and descriptions"
            )
        variables: dict[str, Any] = {**self.special, **json.loads(skeleton)}
        # An empty content stays empty: templates leave out a block that has none.
        placeholders = [
            {**message, "content": f"\ue000{index}\ue001" if message["content"] else ""}
            for index, message in enumerate(variables.pop("messages"))
        ]
        try:
            rendered = str(self._chat.apply_chat_template(placeholders, tokenize=False, **variables))
        except TemplateError as error:
            raise RequestError(f"the chat template refuses these messages: {error}") from None
        texts = _PLACEHOLDER.split(rendered)
        return tuple(int(text) if at % 2 else self._template_text(text) for at, text in enumerate(texts))

    def _template_text(self, text: str) -> Piece:
        return Piece(tuple(self.markup.encode(text, add_special_tokens=False).ids), None)


def _template(directory: Path) -> str | None:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = _object(directory / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several templates by name, as transformers 4 wrote them
        named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = named[0].get("template") if named else None
    return template if isinstance(template, str) else None


def _special(directory: Path) -> dict[str, str]:
    """Returns markers by name, because Llama and Mistral templates begin with `bos_token`, else rendered as nothing."""
    fields = {**_object(directory / "special_tokens_map.json"), **_object(directory / "tokenizer_config.json")}
    found = {name: fields.get(name) for name in _NAMED}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in an optional file."""
    return read_object(path) if path.is_file() else {}
