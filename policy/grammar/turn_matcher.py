"""Matcher of a whole turn: prose, calls and an answer, each part under its own rules, as the engine's `Constraint`.

Knows the parts of a turn and what follows what. Does not know how modes decode them, or chat templates. Prose goes
through no grammar engine: only tokens that would complete the marker of a call and go on wrongly are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import takewhile
from typing import TYPE_CHECKING

from trimode.engine.result import Section
from trimode.engine.token_mask import Mask

from ..errors import SchemaError
from ..schema import CallFormat, Schema, TurnTarget
from .matcher import Matcher
from .recompile import CallGrammar
from .trigger import Trigger
from .turn_parts import Constrained, Either, End, Fixed, Part, Prose, Then
from .vocabulary import Run, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Marker:
    """What opens a call in running text: `text`, with `rest` after it, and its id where it is a control token."""

    text: str
    rest: str
    control: int | None = None

    def closing(self, prose: str) -> int:
        """Returns where the marker begins that `prose` ends with, its length where it ends with none.

        The token that completes the marker may have written some of `rest` too.
        """
        at = prose.rfind(self.text) if self.text else -1
        return at if at >= 0 and self.rest.startswith(prose[at + len(self.text) :]) else len(prose)


@lru_cache(maxsize=64)
def trigger_of(vocabulary: Vocabulary, marker: Marker, banned: bool) -> Trigger:
    """Returns the trigger of a marker, kept for later turns, because it reads the whole vocabulary once."""
    return Trigger(vocabulary, marker.text, marker.rest, marker.control, banned)


@dataclass(frozen=True)
class TurnGrammar:
    """What follows what in one turn. `calls`, `answer`: matchers at the start of a call and of the answer.

    `encode`: tokenizes fixed text, with control markers as control tokens.
    """

    target: TurnTarget
    vocabulary: Vocabulary
    calls: Matcher | None
    answer: Matcher | None
    marker: Marker
    encode: Callable[[str], Sequence[int]]

    @property
    def grammars(self) -> tuple[CallGrammar, ...]:
        """The call's grammars, which count their recompilations."""
        return tuple(one.grammar for one in (self.calls, self.answer) if one is not None)

    def start(self) -> Part:
        if self.calls is None:
            return self._prose() if self.answer is None else self._answer(self.answer)
        if self.target.choice == "required":
            return self._fixed(self._format.head, self._call)
        if self.answer is None:
            return self._prose()
        answer, head = self._answer(self.answer), self._fixed(self._format.head, self._call, kind=self._answer_kind)
        if not isinstance(head, Fixed) or answer.allows(head.tokens[0]):
            raise SchemaError(
                f"calls begin with {self._format.head!r}, and so may what the answer's schema allows: they could not "
                "be told apart; leave out the schema, or the tools"
            )
        return Either(self.vocabulary, answer.kind, (head,), answer)

    @property
    def _format(self) -> CallFormat:
        return self.target.format

    @property
    def _answer_kind(self) -> str:
        return "json" if isinstance(self.target.answer, Schema) else "prose"

    def _prose(self) -> Prose:
        return Prose(self.vocabulary, self._trigger, self._opened)

    def _opened(self, beyond: bytes) -> Part:
        """Returns the part after the marker of a call; `beyond`: what is written of it already."""
        return self._fixed(self.marker.rest.encode()[len(beyond) :].decode("utf-8", "replace"), self._call)

    @cached_property
    def _trigger(self) -> Trigger | None:
        if self.calls is None and self.target.choice != "none":
            return None
        return trigger_of(self.vocabulary, self.marker, banned=self.calls is None)

    def _answer(self, answer: Matcher) -> Constrained:
        return Constrained(answer.fork(), self._answer_kind)

    def _call(self) -> Constrained:
        assert self.calls is not None
        return Constrained(self.calls.fork(), "tool_call", self._after_call, self._closing)

    @cached_property
    def _closing(self) -> Run:
        """Tokens that complete the turn after a call."""
        return (*self.encode(self._format.tail), *(() if self._talks_on else self.vocabulary.ends))

    @property
    def _talks_on(self) -> bool:
        """Whether prose follows calls."""
        return self.target.parallel and self.target.choice == "auto" and self.answer is None

    def _after_call(self) -> Part:
        form = self._format
        if not self.target.parallel or form.between is None or form.between.startswith(form.tail):
            return self._fixed(form.tail, self._after_calls)
        more, tail = tuple(self.encode(form.between)), tuple(self.encode(form.tail))
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(more, tail, strict=False)))
        parting = partial(self._parting, more[shared:], tail[shared:])
        return Fixed(self.vocabulary, more[:shared], parting, "tool_call") if shared else parting()

    def _parting(self, more: Run, tail: Run) -> Part:
        """Returns the part where the tokens before the next call and those after the last one begin to differ."""
        ending = Fixed(self.vocabulary, tail, self._after_calls, "tool_call")
        if not more:
            return Either(self.vocabulary, "tool_call", (ending,), self._call())
        return Either(self.vocabulary, "tool_call", (Fixed(self.vocabulary, more, self._call, "tool_call"), ending))

    def _after_calls(self) -> Part:
        form = self._format
        if self._talks_on:
            return self._prose()
        if not self.target.parallel or form.between is None or not form.between.startswith(form.tail):
            return End(self.vocabulary, "tool_call")
        again = self._fixed(form.between[len(form.tail) :], self._call)
        if isinstance(again, Fixed):
            return Either(self.vocabulary, "tool_call", (again,), end=True)
        return Either(self.vocabulary, "tool_call", (), self._call(), end=True)

    def _fixed(self, text: str, then: Then, kind: str = "tool_call") -> Part:
        tokens = tuple(self.encode(text))
        return Fixed(self.vocabulary, tokens, then, kind) if tokens else then()


class TurnMatcher:
    """One turn at one point of its text."""

    section: Section

    def __init__(self, grammar: TurnGrammar) -> None:
        self.grammar = grammar
        self._part = grammar.start()
        self.section = Section(0, self._part.kind)

    def mask(self) -> Tensor:
        from torch import from_numpy  # here, because schemas are checked without torch

        return from_numpy(self.words())

    def words(self) -> Mask:
        """The mask as a numpy array, which must not be written to."""
        return self._part.mask()

    def forced(self) -> Sequence[int]:
        return self._part.forced()

    def allows(self, token: int) -> bool:
        return self._part.allows(token)

    def advance(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._part = self._part.after(token)
            if self._part.kind != self.section.kind:
                self.section = Section(self.section.number + 1, self._part.kind)

    def fork(self) -> TurnMatcher:
        twin = TurnMatcher.__new__(TurnMatcher)
        twin.grammar, twin.section, twin._part = self.grammar, self.section, self._part.fork()
        return twin

    def completion(self, limit: int) -> list[int] | None:
        return self._part.completion(limit)

    def leads(self, token: int, limit: int) -> bool:
        return self._part.leads(token, limit)
