"""Schemas to grammars: llguidance behind the engine's `Constraint` protocol.

Knows llguidance and bit masks. The grammar engine refuses what it cannot hold; this module finds out where in the
schema that was, by asking again about smaller parts. Nothing is ever relaxed: leniency switches in a schema are
overridden (constrained.md §1.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import llguidance.numpy as bitmask
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from trimode.engine.tokenizer import Tokenizer

from .errors import GrammarRuntimeError, SchemaError, UnsupportedKeyword
from .formats import NAMED, VALUES, tightened
from .schema import Schema

_OPTIONS: Final[Any] = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "lenient": False,
    "coerce_one_of": False,
}
_QUOTED_KEYS: Final = re.compile(r'Unimplemented keys: \["([^"]+)"')


class Matcher:
    """One grammar at one point of a text. End tokens are never fed to llguidance, which miscounts them."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, end: int) -> None:
        self._matcher, self._vocab_size, self._end = matcher, vocab_size, end
        self._row: Tensor | None = None

    def mask(self) -> Tensor:
        if self._row is None:
            self._row = self._compute()
        return self._row

    def advance(self, tokens: Sequence[int]) -> None:
        self._row = None if tokens else self._row
        taken = self._matcher.try_consume_tokens(list(tokens)) if tokens else 0
        if taken < len(tokens):
            raise GrammarRuntimeError(f"the grammar refused token {tokens[taken]}, which its own mask had allowed")

    def fork(self) -> Matcher:
        twin = Matcher(self._matcher.deep_copy(), self._vocab_size, self._end)
        twin._row = self._row
        return twin

    def _compute(self) -> Tensor:
        rows = bitmask.allocate_token_bitmask(1, self._vocab_size)
        if self._matcher.is_stopped() and self._matcher.is_accepting():
            rows[:] = 0
            rows[0, self._end // 32] = np.uint32(1 << (self._end % 32)).astype(np.int32)
        else:
            bitmask.fill_next_token_bitmask(self._matcher, rows, 0)
        if self._matcher.is_error():
            raise GrammarRuntimeError(f"the grammar engine stopped: {self._matcher.get_error()}")
        return torch.from_numpy(rows[0])


class GrammarCompiler:
    """Grammars for one tokenizer; compiled matchers are kept and copied."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, ends: Sequence[int]) -> None:
        self._vocab_size, self._end = vocab_size, ends[0]
        self._tokenizer = LLTokenizer(tokenizer.json, n_vocab=vocab_size, eos_token=ends[0])
        self._compiled = lru_cache(maxsize=256)(self._compile)

    def matcher(self, schema: Schema) -> Matcher:
        """A fresh matcher at the start of the text. Raises UnsupportedKeyword or SchemaError."""
        return self._compiled(_Key(schema)).fork()

    def _compile(self, key: _Key) -> Matcher:
        grammar = _grammar(key.schema.document)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise _explained(key.schema.document)
        return Matcher(matcher, self._vocab_size, self._end)


class _Key:
    """A schema as a dictionary key, by content."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema

    def __hash__(self) -> int:
        return hash(self.schema.sha256)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.schema.sha256 == self.schema.sha256


def check(schema: Schema) -> None:
    """Raises UnsupportedKeyword, with pointer and keyword, where the grammar engine refuses the schema."""
    if _refusal(schema.document) is not None:
        raise _explained(schema.document)


def _grammar(document: Any) -> str:
    try:
        return LLMatcher.grammar_from_json_schema(tightened(document), overrides=_OPTIONS)
    except ValueError as error:  # numbers beyond 64 bits
        raise SchemaError(f"the grammar engine cannot read this schema: {error}") from None


def _refusal(document: Any) -> str | None:
    """llguidance's reason for refusing the schema, or None."""
    failed, messages = LLMatcher.validate_grammar_with_warnings(_grammar(document))
    return messages[0] if failed else None


def _explained(root: dict[str, Any]) -> SchemaError:
    """The refusal of `root`, placed at its deepest part that is refused on its own."""
    pointer, part = "", root
    while (deeper := _refused_child(root, pointer, part)) is not None:
        pointer, part = deeper
    reason = _refusal(_alone(root, part)) or _refusal(root) or "unknown reason"
    if reason.startswith("Unsatisfiable"):
        return SchemaError(f"at {pointer or '#'}: {reason}")
    keyword = _blamed(root, part, reason)
    return UnsupportedKeyword(f"{pointer}/{keyword}", keyword, _hint(reason))


def _hint(reason: str) -> str:
    """llguidance's reason without its own switches, which are not ours to offer."""
    if reason.startswith("oneOf"):
        return "its alternatives may hold at the same time; write anyOf, or tell them apart by a constant property"
    if "not present in a registry" in reason:
        return "only references inside the same schema can be followed"
    if reason.startswith("Unimplemented keys"):
        return "the grammar engine does not know it"
    return reason.splitlines()[-1].removeprefix("error: ")


def _refused_child(root: dict[str, Any], pointer: str, part: Any) -> tuple[str, Any] | None:
    for path, child in _children(part):
        if _refusal(_alone(root, child)) is not None:
            return pointer + path, child
    return None


def _children(part: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Direct subschemas with their pointer fragments; local references are left out: their targets come too."""
    for path, child in _subschemas(part):
        if not str(child.get("$ref", "")).startswith("#"):
            yield path, child


def _subschemas(part: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in part.items():
        if key in VALUES:
            continue
        if key in NAMED:
            named = value.items() if isinstance(value, dict) else ()
            yield from ((f"/{key}/{_escaped(name)}", child) for name, child in named if isinstance(child, dict))
        elif isinstance(value, dict):
            yield f"/{key}", value
        elif isinstance(value, list):
            yield from ((f"/{key}/{at}", child) for at, child in enumerate(value) if isinstance(child, dict))


def _alone(root: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """`part` as a document of its own, with the definitions that it may refer to."""
    definitions: dict[str, Any] = {
        key: root[key] for key in ("$defs", "definitions") if key in root and key not in part
    }
    return {**definitions, **part} if "$ref" in str(part) else part


def _blamed(root: dict[str, Any], part: dict[str, Any], reason: str) -> str:
    """The keyword of `part` without which it would be accepted; else the one that the reason names."""
    for key in part:
        if _refusal(_alone(root, {k: v for k, v in part.items() if k != key})) is None:
            return key
    named = _QUOTED_KEYS.search(reason)
    return named.group(1) if named else next(iter(part), "")


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
