"""One grammar at one point of a text: llguidance behind the engine's `Constraint` protocol, as long as a call lasts.

Knows what was written, one text that completes it, and when to distrust the grammar engine. Does not know schemas or
how a completion is searched. What masks allow is narrower than the grammar: text that it forces comes in the
tokenizer's own spelling alone, and no object gets a key twice. So a completion is kept as a text, which takes at most a
token for each byte, and spelled when needed. A grammar that is used up is compiled anew (`renewal`) and reads the text
again; where even that fails, the completion is all that is left (`epilogue`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from operator import not_
from typing import Final, TypeVar

from torch import Tensor

from ..errors import GrammarRuntimeError
from .completion import CompletionSearch
from .fallback import KnownCompletion
from .object_keys import ObjectKeys
from .raw_matcher import RawMatcher
from .recompile import CallGrammar, stopped
from .vocabulary import StringState

T = TypeVar("T")
_SKIPPED: Final = 64
"""How many tokens of a known completion a choice may make needless before it is given up."""
_TRIES: Final = 3
"""The matcher as it is; one that another call may have compiled, and worn, meanwhile; one of this call's own."""

Ending = list[int] | None
"""Tokens that complete a text, an end token last; None where none are known."""
Past = tuple["Past", int] | None
"""A text's tokens, the last one outermost."""


class Matcher:
    """One grammar at one point of a text.

    `keys`: those that open objects have, None where the grammar sees to it that they differ.
    """

    def __init__(self, supply: CallGrammar, closer: CompletionSearch, keys: ObjectKeys | None = None) -> None:
        self._supply, self._closer, self._vocabulary = supply, closer, closer.vocabulary
        self._at, self._made = RawMatcher(supply.first(), closer.vocabulary, keys), supply.made
        self._past: Past = None
        self._place = StringState.OUTSIDE
        self._known: bytes | None = None
        self._looked: tuple[tuple[int, ...], bytes | None] = (), None
        self._over: KnownCompletion | None = None

    @property
    def reader(self) -> RawMatcher:
        """The grammar at this point, bare; for measurements."""
        return self._at

    @property
    def supply(self) -> CallGrammar:
        """What became of the grammar in this call."""
        return self._supply

    def mask(self) -> Tensor:
        return self._or_over(self._masked, KnownCompletion.mask)

    def forced(self) -> Sequence[int]:
        """Text that the grammar forces, in the tokenizer's spelling; the end behind a text that nothing continues.

        That there is none says little, so it is not tested: the mask says the rest.
        """
        if self._over is None and self._made == self._supply.made and self._at.queue:
            return self._at.queue
        return self._or_over(lambda: self._asked(RawMatcher.forced, doubt=bool), lambda _: ())

    def allows(self, token: int) -> bool:
        return self._or_over(
            lambda: self._asked(lambda at: at.allows(token), doubt=not_), lambda over: over.allows(token)
        )

    def advance(self, tokens: Sequence[int]) -> None:
        """What is known of a completion is the same however many tokens come at a time."""
        run = len(tokens) > 1 and (self._known is None or self._known.startswith(self._vocabulary.text_of(tokens)))
        for some in [tokens] if run else [[token] for token in tokens]:
            self._move(some)

    def _move(self, tokens: Sequence[int]) -> None:
        self._known = self._or_over(lambda: self._behind(tuple(tokens)), lambda over: over.behind(tokens).left)
        self._looked = (), None
        # Should these be the last that the grammar can read, what is known is of behind them already.
        self._over = None if self._over is None else self._over.behind(tokens)
        taken = self._or_over(lambda: self._consumed(tokens), lambda _: len(tokens))
        if taken < len(tokens):
            raise GrammarRuntimeError(f"the grammar refused token {tokens[taken]}, which its own mask had allowed")
        for token in tokens:
            self._past = (self._past, token)
            self._place = self._vocabulary.behind(self._place, token)

    def fork(self) -> Matcher:
        twin = Matcher.__new__(Matcher)
        twin.__dict__.update(self.__dict__)
        twin._at = self._at.fork()
        return twin

    def anew(self) -> Matcher:
        """The same point for another call, which has its mask at hand."""
        self.mask()
        twin = self.fork()
        twin._supply = self._supply.again()
        return twin

    def completion(self, limit: int, until: float = inf) -> Ending:
        """The known completion as masks want it spelled; where there is none or it is longer, what a search finds.

        Raises OutOfTime where the search takes this thread's CPU clock beyond `until`. In a call there must be no such
        limit: what comes next may depend on the tokens alone.
        """
        return self._or_over(lambda: self._ending(limit, until), lambda over: over.completion(limit))

    def learn(self, text: bytes) -> bool:
        """Whether `text` completes this one; if so, it is known from here on."""
        if self._at.completes(self._vocabulary.tokens_of(text)):
            self._known, self._looked = text, ((), None)
        return self._known == text

    def leads(self, token: int, limit: int) -> bool:
        """Whether a completion behind `token` is known that fits even byte by byte."""
        known = self._or_over(lambda: self._behind((token,)), lambda over: over.behind([token]).left)
        return known is not None and len(known) < limit

    def _or_over(self, ask: Callable[[], T], instead: Callable[[KnownCompletion], T]) -> T:
        """What the grammar answers; from where it can say no more, what follows from the completion alone."""
        if self._over is None:
            try:
                return ask()
            except GrammarRuntimeError as error:
                self._over = KnownCompletion(self._vocabulary, self._known, str(error))
                self._supply.ended[tuple(self._tokens())] = str(error)
        return instead(self._over)

    def _asked(self, ask: Callable[[RawMatcher], T], doubt: Callable[[T], bool] | None = None) -> T:
        """What llguidance answers, of a grammar compiled anew if need be; `doubt`: of answers that may be wrong."""
        for _ in range(_TRIES):
            if self._made == self._supply.made:
                answer = ask(self._at)
                if (doubt is not None and not doubt(answer)) or not self._supply.trouble(self._at.engine):
                    return answer
                self._supply.renew()
            keys, self._made = self._at.keys, self._supply.made
            self._at = RawMatcher(self._supply.first(), self._vocabulary, None)
            self._at.advance(self._tokens())
            self._at.keys = keys
        raise stopped(self._at.engine)

    def _tokens(self) -> list[int]:
        found, past = list[int](), self._past
        while past is not None:
            past, token = past
            found.append(token)
        return found[::-1]

    def _masked(self) -> Tensor:
        row = self._at.row if self._made == self._supply.made else None
        return self._asked(RawMatcher.mask) if row is None else row

    def _consumed(self, tokens: Sequence[int]) -> int:
        return self._asked(lambda at: at.advance(tokens), doubt=lambda taken: taken < len(tokens))

    def _ending(self, limit: int, until: float) -> Ending:
        known = self._known
        found = None if known is None else self._asked(lambda at: at.spelled(known, until))
        if found is None or len(found) > limit:
            found = self._searched(limit, until)
        if found is not None:
            self._known = self._vocabulary.text_of(found[:-1])
        return found

    def _searched(self, limit: int, until: float) -> Ending:
        """What the closer finds; calls that wrote the same text and have as much room left share it."""
        return self._supply.source.ending(
            (tuple(self._tokens()), limit),
            lambda: self._asked(lambda at: self._closer.ending(at, self._place, limit, until)),
        )

    def _behind(self, tokens: tuple[int, ...]) -> bytes | None:
        """What is known of a completion behind `tokens`: what is left of the present one, or a part that completes."""
        if self._looked[0] != tokens:
            self._looked = tokens, self._left(tokens)
        return self._looked[1]

    def _left(self, tokens: tuple[int, ...]) -> bytes | None:
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
