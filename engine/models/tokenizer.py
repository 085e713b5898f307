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

from tokenizers import Tokenizer as RawTokenizer

from ..errors import CheckpointError, RequestError
from .fields import read_object
from .template import ChatTemplate, Message

if TYPE_CHECKING:
    from functools import _lru_cache_wrapper  # pyright: ignore[reportPrivateUsage]

RENDERINGS = 256
"""Number of template renderings that are cached: an agent's calls have few forms of conversation, tools and schema."""

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
_PLACEHOLDER = re.compile("\ue000([0-9]+)\ue001")
_LONG = 1 << 14
"""Characters from which on a text is encoded without holding up the other threads of the process."""
_NORMALIZED = 4
"""How many times shorter NFC may make a text: a letter and three marks become one."""


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

    def __init__(
        self,
        tokenizer_json: str,
        template: str | None,
        special: Mapping[str, str] | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """`fields`: those of `tokenizer_json`, where they are known already."""
        known: Mapping[str, Any] = json.loads(tokenizer_json) if fields is None else fields
        self.markup = _whole_texts(tokenizer_json)
        self.markers: tuple[str, ...] = tuple(token["content"] for token in known.get("added_tokens") or [])
        self.plain = _without_markers(self.markup)
        self.special = dict(special or {})
        self.template: ChatTemplate = ChatTemplate(template, self.special)
        self._said = _marker_pattern(known.get("added_tokens") or [])
        self._longest = _bytes_of_longest(known)
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
        return _ids(self.plain, text, False)

    def encode_markup(self, text: str) -> list[int]:
        """Returns the ids of a text that is trusted: control markers in it become control tokens."""
        return _ids(self.markup, text, False)

    def fewest(self, text: str) -> int:
        """Returns a number of tokens that `text` has at least, without encoding it; 0 where nothing is known of it."""
        return 0 if self._longest is None else -(-len(_utf8(text)) // self._longest)

    def marker_in(self, text: str) -> str | None:
        """Returns the first control marker that stands in `text`."""
        found = None if self._said is None else self._said.search(text)
        return None if found is None else found.group()

    def encode_prompt(self, text: str) -> list[int]:
        """Returns the ids of a raw prompt: caller text with the tokenizer's own additions (Llama: a leading BOS)."""
        return _ids(self.plain, text, True)

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
                f"tools, schema or what stands beside a message's content contain the control marker {found!r}; "
                "remove it from names, descriptions and arguments"
            )
        variables: dict[str, Any] = json.loads(skeleton)
        # An empty content stays empty: templates leave out a block that has none.
        placeholders = [
            {**message, "content": f"\ue000{index}\ue001" if message["content"] else ""}
            for index, message in enumerate(variables.pop("messages"))
        ]
        rendered = self.template.render(placeholders, **variables)
        texts = _PLACEHOLDER.split(rendered)
        return tuple(int(text) if at % 2 else self._template_text(text) for at, text in enumerate(texts))

    def _template_text(self, text: str) -> Piece:
        return Piece(tuple(self.encode_markup(text)), None)


def _whole_texts(tokenizer_json: str) -> RawTokenizer:
    """Returns the tokenizer without the lengths of its author's last batch, which some files contain and which would
    truncate or pad prompts."""
    found = RawTokenizer.from_str(tokenizer_json)
    found.no_truncation()
    found.no_padding()
    return found


def _without_markers(markup: RawTokenizer) -> RawTokenizer:
    """Returns the tokenizer without added tokens. The vocabulary is that of `markup`, in memory once."""
    found = RawTokenizer(markup.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        setattr(found, part, getattr(markup, part))
    return found


def _ids(raw: RawTokenizer, text: str, special: bool) -> list[int]:
    """Raises RequestError for a text that is no Unicode."""
    _utf8(text)
    if len(text) < _LONG:
        return raw.encode(text, add_special_tokens=special).ids
    return raw.encode_batch([text], add_special_tokens=special)[0].ids  # `encode` would keep Python's lock


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"a text holds half a surrogate pair, {text[error.start]!a} at character {error.start}, which is no "
            "character; decode it from its bytes again, or replace it"
        ) from None


def _marker_pattern(added: Sequence[Mapping[str, Any]]) -> re.Pattern[str] | None:
    """Finds markers; added tokens that are plain words or white space are no markers."""
    found = [token["content"] for token in added if token["content"].strip()]
    marks = [text for text in found if text[0] in "<[" and text[-1] in ">]" and len(text) > 2]
    longest_first = sorted(marks, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if marks else None


def _bytes_of_longest(fields: Mapping[str, Any]) -> int | None:
    """Bytes of a text that one token stands for at most; None where that has no end, as with unknown words."""
    model, normalizer = fields.get("model") or {}, fields.get("normalizer")
    byte_level = '"ByteLevel"' in json.dumps(fields.get("pre_tokenizer"))
    if model.get("type") != "BPE" or not byte_level or not model.get("vocab"):
        return None
    if normalizer is not None and normalizer.get("type") != "NFC":
        return None
    return max(map(len, model["vocab"])) * (1 if normalizer is None else _NORMALIZED)


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
