"""Schemas to grammars: llguidance behind the engine's `Constraint` protocol.

Knows llguidance, bit masks and how long compiling may take. A schema that the engine refuses is tried again in plainer
keywords (`rewrite`); what it still refuses is placed in the schema (`refusal`). Nothing is ever relaxed: leniency
switches in a schema are overridden.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from trimode.engine.models.tokenizer import Tokenizer

from ..errors import GrammarRuntimeError, SchemaRefused, SchemaTooComplex, UnsatisfiableSchema, UnsupportedKeyword
from ..json_schema import (
    Admitted,
    admitted,
    every_schema,
    heaviest,
    may_overflow,
    may_repeat,
    names_of,
    pointer,
    rewritten,
    samples_of,
    shortest,
    tightened,
    too_complex,
)
from ..schema import Schema, Target, TextTarget
from ..watchdog import OutOfTime, Overloaded, clock, in_time
from .completion import CompletionSearch, Hints
from .matcher import Matcher
from .object_keys import ObjectKeys
from .recompile import CallGrammar, CompiledGrammar
from .refusal import Refuses, placed
from .text_grammar import grammar_text, refused, wholes_of
from .vocabulary import Vocabulary

T = TypeVar("T")
Change = Callable[[Any], Any]
"""From a document to one in plainer keywords."""
_OPTIONS: Final[Any] = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "lenient": False,
    "coerce_one_of": False,
    "json_allowed_escapes": '"\\nrbtf',
}
"""One spelling of each text: no spaces, and escapes only where there is no other way."""
_WITH_CONTROLS: Final[Any] = {**_OPTIONS, "json_allowed_escapes": '"\\nrbtfu'}
"""Control characters too that have no short escape. A key of an open object could then be spelled as another one."""
COMPILE_SECONDS: Final = 0.1
"""CPU time that one schema may take: compiling, with its rewrites, the search for what is refused and an ending."""
TOOLS_AT_ONCE: Final = 32
"""Tools that share that time. Longer lists get more, in proportion, up to five times as much."""
ENDING_TOKENS: Final = 4000
"""The longest of the shortest complete texts that are looked for."""
ENDING_SECONDS: Final = 0.09
"""Of the same time, that after which looking for one is given up."""


@dataclass(frozen=True)
class Compiled:
    """A matcher at the start of the text, the schema as it was compiled, what that does not hold (in words)."""

    start: Matcher
    document: Any
    notes: tuple[str, ...]
    rewritten: bool


class GrammarCompiler:
    """Grammars for one tokenizer; compiled matchers are kept and copied."""

    def __init__(self, tokenizer: Tokenizer | LLTokenizer, vocab_size: int, ends: Sequence[int]) -> None:
        if isinstance(tokenizer, LLTokenizer):
            self._tokenizer = tokenizer
        else:
            self._tokenizer = LLTokenizer(tokenizer.json, n_vocab=vocab_size, eos_token=ends[0])
        self._vocabulary = Vocabulary(self._tokenizer, vocab_size, ends)
        self._kept = lru_cache(maxsize=256)(self._of_key)

    def matcher(self, schema: Target) -> Matcher:
        """A fresh matcher at the start of the text. Raises SchemaRefused, with pointer, keyword and hint."""
        return self._kept(_Key(schema)).start.anew()

    def notes(self, schema: Target) -> tuple[str, ...]:
        """What the schema's grammar does not hold, in words: formats left out on demand."""
        return self._kept(_Key(schema)).notes

    def compile(self, schema: Target, rewrites: bool = True) -> Compiled:
        """Compiles anew. Raises SchemaRefused as `matcher` does."""
        if not isinstance(schema, Schema):
            return self._of_text(schema)
        return _in_time(schema, lambda known: self._compiled(schema, rewritten if rewrites else _same, known))

    def _compiled(self, schema: Schema, change: Change, known: list[SchemaRefused]) -> Compiled:
        until = clock() + ENDING_SECONDS * seconds_of(schema) / COMPILE_SECONDS
        found = list[LLMatcher]()

        def refuses(document: Any) -> str | None:
            found[:] = [self._made(_grammar(document))]
            return found[0].get_error() if found[0].is_error() else None

        form, changed = _settled(schema, refuses, change, known)
        return Compiled(self._start(found[0], form.document, until), form.document, form.notes, changed)

    def _start(self, matcher: LLMatcher, document: Any, until: float) -> Matcher:
        """A matcher that knows how its text could end. Raises SchemaTooComplex where no ending is found."""
        source = CompiledGrammar(matcher, lambda limits: self._made(_grammar(document), limits), self._vocabulary)
        closer = CompletionSearch(
            self._vocabulary, lambda: Hints(_written(samples_of(document)), _written(names_of(document)))
        )
        start = Matcher(
            CallGrammar(source), closer, ObjectKeys() if may_repeat(document) or may_overflow(document) else None
        )
        guess = shortest(document, self._vocabulary.filler)
        known = guess is not None and start.learn(guess.encode())
        # A text takes at most a token for each byte.
        return start if known and len((guess or "").encode()) < ENDING_TOKENS else _ended(start, "", until)

    def _of_text(self, target: TextTarget) -> Compiled:
        return _within_time(target, lambda: self._compiled_text(target))

    def _compiled_text(self, target: TextTarget) -> Compiled:
        until, made = clock() + ENDING_SECONDS, self._made(grammar_text(target))
        if made.is_error():
            raise refused(target, made.get_error())
        source = CompiledGrammar(made, lambda limits: self._made(grammar_text(target), limits), self._vocabulary)
        start = Matcher(CallGrammar(source), CompletionSearch(self._vocabulary, wholes=wholes_of(target)))
        try:
            start.mask()
        except GrammarRuntimeError as error:
            raise UnsatisfiableSchema("", target.kind, f"no text fits it ({error}); loosen it") from None
        return Compiled(_ended(start, target.kind, until), target.document, (), False)

    def _made(self, grammar: str, limits: LLParserLimits | None = None) -> LLMatcher:
        return LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)

    def _of_key(self, key: _Key) -> Compiled:
        made = self.compile(key.schema)
        # Before others can see it: llguidance's matchers must not be asked by two threads at once, only copied.
        made.start.mask()
        return made


class _Key:
    """A schema as a dictionary key, by content, order of keys included."""

    def __init__(self, schema: Target) -> None:
        self.schema = schema
        self._content = (schema.text, schema.formats if isinstance(schema, Schema) else schema.kind)

    def __hash__(self) -> int:
        return hash(self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other._content == self._content


def seconds_of(schema: Target) -> float:
    """CPU time that compiling may take: a list of tools is as many schemas, most of them small."""
    tools = len(schema.tools) if isinstance(schema, Schema) else 0
    return COMPILE_SECONDS * min(max(1.0, tools / TOOLS_AT_ONCE), 5.0)


def told(tool: str, place: str) -> str:
    """A place as notes name it."""
    return f"{place} of tool {tool!r}" if tool else place


def check(schema: Target) -> None:
    """Raises SchemaRefused, with pointer, keyword and hint, where no grammar can hold the schema."""
    if not isinstance(schema, Schema):
        failed, messages = _within_time(schema, lambda: LLMatcher.validate_grammar_with_warnings(grammar_text(schema)))
        if failed:
            raise refused(schema, messages[0])
        return
    _in_time(schema, lambda known: _settled(schema, _refusal, rewritten, known))


def _in_time(schema: Schema, work: Callable[[list[SchemaRefused]], T]) -> T:
    """What `work` makes of `schema`. It is handed a list for refusals that are certain. Raises SchemaRefused."""
    known: list[SchemaRefused] = []
    try:
        return in_time(lambda: work(known), seconds_of(schema))
    except Overloaded as error:
        raise SchemaTooComplex("", "", str(error)) from None
    except SchemaRefused as error:
        raise schema.refused(error) from None
    except OutOfTime as error:
        hint = f"compiling: {error}; use smaller enums and bounds, fewer names and patterns"
        raise schema.refused(known[0] if known else too_complex(heaviest(schema.document), hint)) from None
    except RecursionError:
        raise SchemaTooComplex("", "", "nested too deeply to be read; use $ref for parts that repeat") from None


def _ended(start: Matcher, keyword: str, until: float) -> Matcher:
    """`start`, which knows a complete text from here on. Raises SchemaTooComplex where none is found."""
    try:
        found = start.completion(ENDING_TOKENS, until)
    except OutOfTime as error:
        raise SchemaTooComplex("", keyword, f"{error} in {ENDING_SECONDS} s; ask for less") from None
    if found is None:
        hint = f"no complete text of up to {ENDING_TOKENS} tokens was found; ask for less"
        raise SchemaTooComplex("", keyword, hint)
    return start


def _within_time(target: TextTarget, work: Callable[[], T]) -> T:
    try:
        return in_time(work, COMPILE_SECONDS)
    except Overloaded as error:
        raise SchemaTooComplex("", target.kind, str(error)) from None
    except OutOfTime as error:
        raise SchemaTooComplex("", target.kind, f"compiling: {error}; make it smaller") from None


def _settled(schema: Schema, refuses: Refuses, change: Change, known: list[SchemaRefused]) -> tuple[Admitted, bool]:
    """The form of `schema` that the engine takes, and whether that is a rewritten one. Raises SchemaRefused.

    `known` gets a refusal as soon as it is certain; the one raised knows its place better.
    """
    form = admitted(schema.common.document, schema.formats, lambda place: told(*schema.origin(place)))
    reason, overlap = refuses(form.document), _overlapping(form.document)
    if reason is None and overlap is None:
        return form, False
    known.append(overlap or placed(form.document, refuses, reason or "", seconds=0.0))
    other = change(form.document)
    if other != form.document:
        known.clear()
        again, overlap = refuses(other), _overlapping(other) and overlap
        if again is None and overlap is None:
            return Admitted(other, form.notes), True
        reason = again if again is not None and again.startswith("Unsatisfiable") else reason
        known.append(overlap or placed(form.document, refuses, reason or "", seconds=0.0))
    if overlap is not None:
        raise overlap
    raise placed(form.document, lambda part: _refused_twice(part, change), reason or "")


def _refused_twice(document: Any, change: Change) -> str | None:
    """The reason for refusing a part, rewritten or not."""
    reason = _refusal(document)
    if reason is None or (other := change(document)) == document:
        return reason
    return None if (again := _refusal(other)) is None else again if again.startswith("Unsatisfiable") else reason


def _written(texts: Sequence[str]) -> tuple[str, ...]:
    """Texts as JSON has them between quotes."""
    return tuple(json.dumps(text, ensure_ascii=False)[1:-1] for text in texts)


def _same(document: Any) -> Any:
    return document


def _grammar(document: Any) -> str:
    try:
        made = tightened(document)
        grammar = LLMatcher.grammar_from_json_schema(made, overrides=_OPTIONS)
        if not ("\\u00" in grammar or "\x7f" in grammar) or may_repeat(document):
            return grammar
        return LLMatcher.grammar_from_json_schema(made, overrides=_WITH_CONTROLS)
    except ValueError as error:  # numbers beyond 64 bits inside values
        raise SchemaTooComplex("", "", f"the grammar engine cannot read it: {str(error)[:200]}") from None


def _refusal(document: Any) -> str | None:
    """llguidance's reason for refusing the schema, or None."""
    failed, messages = LLMatcher.validate_grammar_with_warnings(_grammar(document))
    return messages[0] if failed else None


def _overlapping(document: Any) -> SchemaRefused | None:
    """The refusal of a `oneOf` beside patterns of keys, which llguidance 1.9.1 takes and does not hold.

    It ignores what such patterns let through when it proves that the alternatives are apart; `rewrite` does not.
    """
    schemas = list(every_schema(document))
    if not {key for _, schema in schemas for key in schema} & {"patternProperties", "propertyNames"}:
        return None
    where = next((where for where, schema in schemas if "oneOf" in schema), None)
    hint = (
        "beside patterns of keys its alternatives may hold at the same time; write anyOf, or tell them apart by a const"
    )
    return None if where is None else UnsupportedKeyword(pointer((*where, "oneOf")), "oneOf", hint)
