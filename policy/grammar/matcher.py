"""Matcher: one grammar at one point of a text, as the engine's `Constraint` protocol.

Knows the tokens so far, one text that completes them, and when to distrust the grammar engine. Does not know schemas or
how a completion is searched. Masks are narrower than the grammar: forced text is allowed in its canonical tokenization
alone, and no object gets a key twice. So a completion is stored as text, which takes at most one token a byte, and
tokenized when needed. A grammar whose lexer is exhausted is recompiled and reads the text again (`recompile.py`); where
even that fails, the stored completion takes its place (`fallback.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from operator import not_
from typing import TYPE_CHECKING, Final, TypeVar

from trimode.engine.constraint import WHOLE
from trimode.engine.result import Section
from trimode.engine.token_mask import Mask

from ..errors import GrammarRuntimeError
from .completion import CompletionSearch
from .fallback import KnownCompletion
from .object_keys import ObjectKeys
from .raw_matcher import RawMatcher
from .recompile import CallGrammar, engine_stopped
from .vocabulary import StringState, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
_SKIPPED: Final = 64
"""Number of the known completion's first tokens that new tokens may replace before the completion is given up."""
_TRIES: Final = 3
"""Number of compilations that a question is put to: the present one, one that another call may have recompiled and
exhausted meanwhile, and one that this call recompiled."""

Completion = list[int] | None
"""Tokens that complete a text, an end token last; None where no completion is known."""
Past = tuple["Past", int] | None
"""The tokens of a text as a linked list, the last one outermost, so that forks share it."""


class Matcher:
    """One grammar at one point of a text.

    `keys`: the state of open objects, None where the grammar itself rules out equal keys.
    """

    def __init__(self, grammar: CallGrammar, search: CompletionSearch, keys: ObjectKeys | None = None) -> None:
        self._grammar, self._search, self._vocabulary = grammar, search, search.vocabulary
        self._raw, self._version = RawMatcher(grammar.start(), search.vocabulary, keys), grammar.version
        self._past: Past = None
        self._state = StringState.OUTSIDE
        self._known: bytes | None = None
        self._ahead: tuple[tuple[int, ...], bytes | None] = (), None
        self._fallback: KnownCompletion | None = None

    @property
    def raw(self) -> RawMatcher:
        """The grammar at this point without the test for an exhausted lexer; for measurements."""
        return self._raw

    @property
    def section(self) -> Section:
        """The only part of the text."""
        return WHOLE

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    @property
    def grammar(self) -> CallGrammar:
        """The call's grammar, which counts its recompilations and failures."""
        return self._grammar

    def mask(self) -> Tensor:
        from torch import from_numpy  # here, because schemas are checked without torch

        return from_numpy(self.words())

    def words(self) -> Mask:
        """The mask as a numpy array, which must not be written to."""
        return self._or_fallback(self._masked, KnownCompletion.mask)

    def forced(self) -> Sequence[int]:
        """The canonical tokens of text that the grammar forces; the end token after a text that nothing continues.

        An empty answer is returned without the test for an exhausted lexer, because it only means that no forced token
        is known. The caller asks for the mask next, which is tested.
        """
        if self._fallback is None and self._version == self._grammar.version and self._raw.known_forced:
            return self._raw.known_forced
        return self._or_fallback(lambda: self._asked(RawMatcher.forced, doubt=bool), lambda _: ())

    def allows(self, token: int) -> bool:
        return self._or_fallback(
            lambda: self._asked(lambda at: at.allows(token), doubt=not_), lambda fallback: fallback.allows(token)
        )

    def advance(self, tokens: Sequence[int]) -> None:
        """Moves past `tokens`. The known completion afterwards does not depend on how many tokens come at a time."""
        at_once = len(tokens) > 1 and (self._known is None or self._known.startswith(self._vocabulary.text_of(tokens)))
        for part in [tokens] if at_once else [[token] for token in tokens]:
            self._move(part)

    def _move(self, tokens: Sequence[int]) -> None:
        self._known = self._or_fallback(
            lambda: self._known_after(tuple(tokens)), lambda fallback: fallback.after(tokens).remaining
        )
        self._ahead = (), None
        # `_known` is advanced before `tokens` are consumed: if consuming them fails, the fallback starts after them.
        self._fallback = None if self._fallback is None else self._fallback.after(tokens)
        taken = self._or_fallback(lambda: self._consumed(tokens), lambda _: len(tokens))
        if taken < len(tokens):
            raise GrammarRuntimeError(f"the grammar refused token {tokens[taken]}, which its own mask had allowed")
        for token in tokens:
            self._past = (self._past, token)
            self._state = self._vocabulary.state_after(self._state, token)

    def fork(self) -> Matcher:
        twin = Matcher.__new__(Matcher)
        twin.__dict__.update(self.__dict__)
        twin._raw = self._raw.fork()
        return twin

    def for_call(self) -> Matcher:
        """A matcher at the same point for another call, with the mask computed."""
        self.words()
        twin = self.fork()
        twin._grammar = self._grammar.for_call()
        return twin

    def completion(self, limit: int, until: float = inf) -> Completion:
        """The known completion, tokenized as masks allow it; the result of a search where that exceeds `limit`.

        Raises OutOfTime where the search takes this thread's CPU clock beyond `until`. Calls must pass no such limit,
        because a decode may depend on the tokens alone.
        """
        return self._or_fallback(lambda: self._ending(limit, until), lambda fallback: fallback.completion(limit))

    def learn(self, text: bytes) -> bool:
        """Makes `text` the known completion where it completes the text; returns whether it does."""
        if self._raw.completes(self._vocabulary.tokens_of(text)):
            self._known, self._ahead = text, ((), None)
        return self._known == text

    def leads(self, token: int, limit: int) -> bool:
        """Whether a completion after `token` is known that fits within `limit` even at one token a byte."""
        known = self._or_fallback(
            lambda: self._known_after((token,)), lambda fallback: fallback.after([token]).remaining
        )
        return known is not None and len(known) < limit

    def _or_fallback(self, ask: Callable[[], T], instead: Callable[[KnownCompletion], T]) -> T:
        """The grammar's answer; once the grammar has failed, the answer of the known completion."""
        if self._fallback is None:
            try:
                return ask()
            except GrammarRuntimeError as error:
                self._fallback = KnownCompletion(self._vocabulary, self._known, str(error))
                self._grammar.failures[tuple(self._tokens())] = str(error)
        return instead(self._fallback)

    def _asked(self, ask: Callable[[RawMatcher], T], doubt: Callable[[T], bool] | None = None) -> T:
        """llguidance's answer, of a recompiled grammar where the lexer is exhausted.

        `doubt`: whether an exhausted lexer may have given this answer; None: any answer.
        """
        for _ in range(_TRIES):
            if self._version == self._grammar.version:
                answer = ask(self._raw)
                if (doubt is not None and not doubt(answer)) or not self._grammar.is_exhausted(self._raw.engine):
                    return answer
                self._grammar.recompile()
            keys, self._version = self._raw.keys, self._grammar.version
            self._raw = RawMatcher(self._grammar.start(), self._vocabulary, None)
            self._raw.advance(self._tokens())
            self._raw.keys = keys
        raise engine_stopped(self._raw.engine)

    def _tokens(self) -> list[int]:
        found, past = list[int](), self._past
        while past is not None:
            past, token = past
            found.append(token)
        return found[::-1]

    def _masked(self) -> Mask:
        row = self._raw.row if self._version == self._grammar.version else None
        return self._asked(RawMatcher.mask) if row is None else row

    def _consumed(self, tokens: Sequence[int]) -> int:
        return self._asked(lambda at: at.advance(tokens), doubt=lambda taken: taken < len(tokens))

    def _ending(self, limit: int, until: float) -> Completion:
        known = self._known
        found = None if known is None else self._asked(lambda at: at.tokenized(known, until))
        if found is None or len(found) > limit:
            found = self._searched(limit, until)
        if found is not None:
            self._known = self._vocabulary.text_of(found[:-1])
        return found

    def _searched(self, limit: int, until: float) -> Completion:
        """The result of a completion search, shared by calls with the same text and the same remaining budget."""
        return self._grammar.compiled.completion(
            (tuple(self._tokens()), limit),
            lambda: self._asked(lambda at: self._search.find(at, self._state, limit, until)),
        )

    def _known_after(self, tokens: tuple[int, ...]) -> bytes | None:
        """The known completion after `tokens`, cached for the last tokens that were asked about."""
        if self._ahead[0] != tokens:
            self._ahead = tokens, self._remaining_after(tokens)
        return self._ahead[1]

    def _remaining_after(self, tokens: tuple[int, ...]) -> bytes | None:
        """The rest of the known completion after `tokens`, or its longest suffix that still completes the text."""
        if self._known is None:
            return None
        text = self._vocabulary.text_of(tokens)
        if text and self._known.startswith(text):
            return self._known[len(text) :]
        known = self._vocabulary.tokens_of(self._known)
        skips = range(min(len(known) + 1, _SKIPPED))
        skipped = self._asked(
            lambda at: next((skip for skip in skips if at.completes([*tokens, *known[skip:]])), None),
            doubt=lambda skip: skip is None,
        )
        return None if skipped is None else self._vocabulary.text_of(known[skipped:])
