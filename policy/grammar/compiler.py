"""Compiler from schemas to grammars: llguidance under the engine's `Constraint` protocol.

Knows llguidance, and how long compiling may take. Does not know how masks are asked for, or who decodes. A schema that
llguidance refuses is tried again in plainer keywords (`rewrite.py`); what it still refuses is located in the schema
(`refusal.py`). No keyword is relaxed: llguidance's switches for leniency in a schema are overridden.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from trimode.engine.models.tokenizer import Tokenizer

from ..errors import GrammarRuntimeError, SchemaRefused, SchemaTooComplex, UnsatisfiableSchema
from ..json_schema import (
    NormalForm,
    heaviest,
    may_overflow,
    may_repeat,
    names_of,
    normalized,
    rewritten,
    samples_of,
    shortest,
    step_of,
    tightened,
    too_complex,
)
from ..schema import Schema, Target, TextTarget
from ..watchdog import OutOfTime, Overloaded, clock, in_time
from .completion import CompletionSearch, Hints
from .matcher import Matcher
from .object_keys import ObjectKeys
from .recompile import CallGrammar, CompiledGrammar
from .refusal import Refuses, located, overlapping
from .text_grammar import complete_texts_of, grammar_text, refused
from .vocabulary import Vocabulary

T = TypeVar("T")
Change = Callable[[Any], Any]
"""Rewrites a document in plainer keywords."""
_OPTIONS: Final[Any] = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "lenient": False,
    "coerce_one_of": False,
    "json_allowed_escapes": '"\\nrbtf',
}
"""llguidance's options for one canonical text of each value: no spaces, and escapes only where JSON needs them."""
_WITH_CONTROLS: Final[Any] = {**_OPTIONS, "json_allowed_escapes": '"\\nrbtfu'}
"""Options that also allow control characters without a short escape. They are not used where keys must be compared,
because a key could then be written in two ways."""
COMPILE_SECONDS: Final = 0.1
"""CPU seconds that one schema may take: compiling, rewriting, locating a refusal and searching for a complete text."""
TOOLS_AT_ONCE: Final = 32
"""Number of tools that share that time. Longer lists get more in proportion, up to five times as much."""
COMPLETION_TOKENS: Final = 4000
"""Length in tokens up to which a schema's shortest complete text is searched."""
COMPLETION_SECONDS: Final = 0.09
"""CPU seconds, of COMPILE_SECONDS, after which that search is given up."""


@dataclass(frozen=True)
class Compiled:
    """A matcher at the start of the text, the document as compiled, and notes on what the grammar does not enforce."""

    start: Matcher
    document: Any
    notes: tuple[str, ...]
    rewritten: bool


class GrammarCompiler:
    """Compiles grammars for one tokenizer; compiled matchers are cached and copied."""

    def __init__(self, tokenizer: Tokenizer | LLTokenizer, vocab_size: int, ends: Sequence[int]) -> None:
        if isinstance(tokenizer, LLTokenizer):
            self._tokenizer = tokenizer
        else:
            self._tokenizer = LLTokenizer(tokenizer.json, n_vocab=vocab_size, eos_token=ends[0])
        self.vocabulary: Vocabulary = Vocabulary(self._tokenizer, vocab_size, ends)
        self._cached = lru_cache(maxsize=256)(self._compile_cached)

    def matcher(self, schema: Target) -> Matcher:
        """A fresh matcher at the start of the text. Raises SchemaRefused, with pointer, keyword and hint."""
        return self._cached(_Key(schema)).start.for_call()

    def notes(self, schema: Target) -> tuple[str, ...]:
        """Notes on what the schema's grammar does not enforce: formats that are annotations."""
        return self._cached(_Key(schema)).notes

    def document(self, schema: Target) -> Any:
        """The document that the grammar was compiled from, in common form. Raises SchemaRefused."""
        return self._cached(_Key(schema)).document

    def compile(self, schema: Target, rewrites: bool = True) -> Compiled:
        """Compiles without the cache. Raises SchemaRefused as `matcher` does."""
        if not isinstance(schema, Schema):
            return self._of_text(schema)
        change = rewritten if rewrites else _unchanged
        return _schema_in_time(schema, lambda certain: self._compiled(schema, change, certain))

    def _compiled(self, schema: Schema, change: Change, certain: list[SchemaRefused]) -> Compiled:
        until = clock() + COMPLETION_SECONDS * seconds_of(schema) / COMPILE_SECONDS
        found = list[LLMatcher]()

        def refuses(document: Any) -> str | None:
            found[:] = [self._parse(_grammar(document))]
            return found[0].get_error() if found[0].is_error() else None

        form, changed = _accept(schema, refuses, change, certain)
        return Compiled(self._start(found[0], form.document, until), form.document, form.notes, changed)

    def _start(self, matcher: LLMatcher, document: Any, until: float) -> Matcher:
        """A matcher that knows a complete text. Raises SchemaTooComplex where none is found."""
        shared = CompiledGrammar(matcher, lambda limits: self._parse(_grammar(document), limits), self.vocabulary)
        search = CompletionSearch(
            self.vocabulary,
            lambda: Hints(_json_escaped(samples_of(document)), _json_escaped(names_of(document)), step_of(document)),
        )
        keys = ObjectKeys() if may_repeat(document) or may_overflow(document) else None
        start = Matcher(CallGrammar(shared), search, keys)
        guess = shortest(document, self.vocabulary.filler)
        known = guess is not None and start.learn(guess.encode())
        # A text takes at most one token a byte.
        short = known and len((guess or "").encode()) < COMPLETION_TOKENS
        return start if short else _with_completion(start, "", until)

    def _of_text(self, target: TextTarget) -> Compiled:
        return _text_in_time(target, lambda: self._compiled_text(target))

    def _compiled_text(self, target: TextTarget) -> Compiled:
        until, matcher = clock() + COMPLETION_SECONDS, self._parse(grammar_text(target))
        if matcher.is_error():
            raise refused(target, matcher.get_error())
        shared = CompiledGrammar(matcher, lambda limits: self._parse(grammar_text(target), limits), self.vocabulary)
        search = CompletionSearch(self.vocabulary, complete_texts=complete_texts_of(target))
        start = Matcher(CallGrammar(shared), search)
        try:
            start.words()
        except GrammarRuntimeError as error:
            raise UnsatisfiableSchema("", target.kind, f"no text fits it ({error}); loosen it") from None
        return Compiled(_with_completion(start, target.kind, until), target.document, (), False)

    def _parse(self, grammar: str, limits: LLParserLimits | None = None) -> LLMatcher:
        return LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)

    def _compile_cached(self, key: _Key) -> Compiled:
        compiled = self.compile(key.schema)
        # Before the cache shares it: two threads may copy an llguidance matcher at once, but not ask it.
        compiled.start.words()
        return compiled


class _Key:
    """A schema as a dictionary key, compared by content and the order of its keys."""

    def __init__(self, schema: Target) -> None:
        self.schema = schema
        self._content = (schema.text, schema.formats if isinstance(schema, Schema) else schema.kind)

    def __hash__(self) -> int:
        return hash(self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other._content == self._content


def seconds_of(schema: Target) -> float:
    """CPU seconds that compiling `schema` may take; more for many tools, because each of them is a schema."""
    tools = len(schema.tools) if isinstance(schema, Schema) else 0
    return COMPILE_SECONDS * min(max(1.0, tools / TOOLS_AT_ONCE), 5.0)


def place_in_tool(tool: str, place: str) -> str:
    """A place as notes name it: the pointer, and the tool if there is one."""
    return f"{place} of tool {tool!r}" if tool else place


def check(schema: Target) -> None:
    """Raises SchemaRefused, with pointer, keyword and hint, where no grammar can enforce the schema."""
    if not isinstance(schema, Schema):
        failed, messages = _text_in_time(schema, lambda: LLMatcher.validate_grammar_with_warnings(grammar_text(schema)))
        if failed:
            raise refused(schema, messages[0])
        return
    _schema_in_time(schema, lambda certain: _accept(schema, _refusal, rewritten, certain))


def _schema_in_time(schema: Schema, work: Callable[[list[SchemaRefused]], T]) -> T:
    """The result of `work` within its CPU time; it gets a list for refusals that are certain. Raises SchemaRefused."""
    certain: list[SchemaRefused] = []
    try:
        return in_time(lambda: work(certain), seconds_of(schema))
    except Overloaded as error:
        raise SchemaTooComplex("", "", str(error)) from None
    except SchemaRefused as error:
        raise schema.refused(error) from None
    except OutOfTime as error:
        hint = f"compiling: {error}; use smaller enums and bounds, fewer names and patterns"
        raise schema.refused(certain[0] if certain else too_complex(heaviest(schema.document), hint)) from None
    except RecursionError:
        raise SchemaTooComplex("", "", "nested too deeply to be read; use $ref for parts that repeat") from None


def _with_completion(start: Matcher, keyword: str, until: float) -> Matcher:
    """`start`, which knows a complete text afterwards. Raises SchemaTooComplex where none is found."""
    try:
        found = start.completion(COMPLETION_TOKENS, until)
    except OutOfTime as error:
        raise SchemaTooComplex("", keyword, f"{error} in {COMPLETION_SECONDS} s; ask for less") from None
    if found is None:
        hint = f"no complete text of up to {COMPLETION_TOKENS} tokens was found; ask for less"
        raise SchemaTooComplex("", keyword, hint)
    return start


def _text_in_time(target: TextTarget, work: Callable[[], T]) -> T:
    """The result of `work` within COMPILE_SECONDS. Raises SchemaTooComplex."""
    try:
        return in_time(work, COMPILE_SECONDS)
    except Overloaded as error:
        raise SchemaTooComplex("", target.kind, str(error)) from None
    except OutOfTime as error:
        raise SchemaTooComplex("", target.kind, f"compiling: {error}; make it smaller") from None


def _accept(schema: Schema, refuses: Refuses, change: Change, certain: list[SchemaRefused]) -> tuple[NormalForm, bool]:
    """The form of `schema` that llguidance accepts, and whether it was rewritten; else raises SchemaRefused.

    `certain` gets a refusal as soon as it is certain; the refusal raised is located more exactly.
    """
    form = normalized(schema.common.document, schema.formats, lambda place: place_in_tool(*schema.origin(place)))
    reason, overlap = refuses(form.document), overlapping(form.document)
    if reason is None and overlap is None:
        return form, False
    certain.append(overlap or located(form.document, refuses, reason or "", seconds=0.0))
    other = change(form.document)
    if other != form.document:
        certain.clear()
        again, overlap = refuses(other), overlapping(other) and overlap
        if again is None and overlap is None:
            return NormalForm(other, form.notes), True
        reason = again if again is not None and again.startswith("Unsatisfiable") else reason
        certain.append(overlap or located(form.document, refuses, reason or "", seconds=0.0))
    if overlap is not None:
        raise overlap
    raise located(form.document, lambda part: _refused_twice(part, change), reason or "")


def _refused_twice(document: Any, change: Change) -> str | None:
    """The reason for refusing a part both as it is and rewritten; None where one of them is accepted."""
    reason = _refusal(document)
    if reason is None or (other := change(document)) == document:
        return reason
    return None if (again := _refusal(other)) is None else again if again.startswith("Unsatisfiable") else reason


def _json_escaped(texts: Sequence[str]) -> tuple[str, ...]:
    """Texts as JSON writes them between quotes."""
    return tuple(json.dumps(text, ensure_ascii=False)[1:-1] for text in texts)


def _unchanged(document: Any) -> Any:
    return document


def _grammar(document: Any) -> str:
    """llguidance's grammar of a document. Raises SchemaTooComplex for numbers that it cannot read."""
    try:
        tight = tightened(document)
        grammar = LLMatcher.grammar_from_json_schema(tight, overrides=_OPTIONS)
        if not ("\\u00" in grammar or "\x7f" in grammar) or may_repeat(document):
            return grammar
        return LLMatcher.grammar_from_json_schema(tight, overrides=_WITH_CONTROLS)
    except ValueError as error:  # numbers beyond 64 bits inside values
        raise SchemaTooComplex("", "", f"the grammar engine cannot read it: {str(error)[:200]}") from None


def _refusal(document: Any) -> str | None:
    """llguidance's reason for refusing the schema, or None."""
    failed, messages = LLMatcher.validate_grammar_with_warnings(_grammar(document))
    return messages[0] if failed else None
