"""The parts of a turn as constraints: prose, fixed text, JSON under a grammar, and a choice of what comes next.

Knows tokens, masks and matchers. Does not know tools, formats of calls, or which part follows which: a part is given a
function that returns the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from trimode.engine.token_mask import Mask, lone

from .matcher import Matcher
from .trigger import Opened, Trigger
from .vocabulary import Run, Vocabulary


class Part(Protocol):
    """One part of a turn at one point of its text, by the rules of `Constraint`, except that a part is replaced:
    `after` returns what stands after a token, in this part or the next. A part must not be used after its `after`."""

    @property
    def kind(self) -> str: ...
    def mask(self) -> Mask: ...
    def forced(self) -> Run: ...
    def allows(self, token: int, /) -> bool: ...
    def after(self, token: int, /) -> Part: ...
    def fork(self) -> Part: ...
    def completion(self, limit: int, /) -> list[int] | None: ...
    def leads(self, token: int, limit: int, /) -> bool: ...


Then = Callable[[], Part]
"""Returns the part that follows."""


@dataclass(frozen=True, slots=True)
class Prose:
    """Unconstrained text, which may be cut or end anywhere. `opened`: returns the part after the trigger, of whose text
    some bytes are written already."""

    vocabulary: Vocabulary
    trigger: Trigger | None
    opened: Callable[[bytes], Part]
    matched: int = 0
    kind: str = "prose"

    def mask(self) -> Mask:
        return self.vocabulary.all if self.trigger is None else self.trigger.mask(self.matched)

    def forced(self) -> Run:
        return ()

    def allows(self, token: int) -> bool:
        return self.trigger is None or token not in self.trigger.refused(self.matched)

    def after(self, token: int) -> Part:
        if self.trigger is None:
            return self
        after = self.trigger.after(self.matched, token)
        if isinstance(after, Opened):
            return self.opened(after.beyond)
        return self if after == self.matched else replace(self, matched=after)

    def fork(self) -> Prose:
        return self

    def completion(self, limit: int) -> list[int] | None:
        return self.vocabulary.ends[:limit]

    def leads(self, token: int, limit: int) -> bool:
        opens = self.trigger is not None and isinstance(self.trigger.after(self.matched, token), Opened)
        return limit >= 0 and not opens and self.allows(token)


@dataclass(frozen=True, slots=True)
class Fixed:
    """Text that is written as it stands: its tokens, at least one. `then`: returns the part after it."""

    vocabulary: Vocabulary
    tokens: Run
    then: Then
    kind: str

    def mask(self) -> Mask:
        return lone(self.tokens[0], self.vocabulary.mask_words)

    def forced(self) -> Run:
        return self.tokens

    def allows(self, token: int) -> bool:
        return token == self.tokens[0]

    def after(self, token: int) -> Part:
        assert token == self.tokens[0]
        return replace(self, tokens=self.tokens[1:]) if self.tokens[1:] else self.then()

    def fork(self) -> Fixed:
        return self

    def completion(self, limit: int) -> list[int] | None:
        rest = limit - len(self.tokens)
        found = self.then().completion(rest) if rest >= 0 else None
        return None if found is None else [*self.tokens, *found]

    def leads(self, token: int, limit: int) -> bool:
        del token, limit  # it is asked where nothing is forced
        return False


@dataclass(frozen=True, slots=True)
class End:
    """The end of the turn: nothing but an end token."""

    vocabulary: Vocabulary
    kind: str

    def mask(self) -> Mask:
        return self.vocabulary.only_end

    def forced(self) -> Run:
        return tuple(self.vocabulary.ends)

    def allows(self, token: int) -> bool:
        return token in self.vocabulary.ends

    def after(self, token: int) -> Part:
        raise AssertionError(f"token {token} after the end of a turn")

    def fork(self) -> End:
        return self

    def completion(self, limit: int) -> list[int] | None:
        return [*self.vocabulary.ends] if limit >= 1 else None

    def leads(self, token: int, limit: int) -> bool:
        del token, limit
        return False


@dataclass(frozen=True, slots=True)
class Constrained:
    """Text of a grammar. `then`: returns the next part, None where the turn ends with this one; `closing`: tokens that
    complete the turn after this part."""

    matcher: Matcher
    kind: str
    then: Then | None = None
    closing: Run = ()

    def mask(self) -> Mask:
        return self.matcher.words()

    def forced(self) -> Run:
        return tuple(self.matcher.forced())

    def allows(self, token: int) -> bool:
        return self.matcher.allows(token)

    def after(self, token: int) -> Part:
        self.matcher.advance([token])
        return self if self.then is None or not self._complete else self.then()

    @property
    def _complete(self) -> bool:
        """Whether nothing but the end may follow."""
        return list(self.matcher.forced()) == self.matcher.vocabulary.ends

    def fork(self) -> Constrained:
        return replace(self, matcher=self.matcher.fork())

    def completion(self, limit: int) -> list[int] | None:
        if self.then is None:
            return self.matcher.completion(limit)
        found = self.matcher.completion(limit - len(self.closing) + 1)
        return None if found is None else [*found[:-1], *self.closing]

    def leads(self, token: int, limit: int) -> bool:
        return self.matcher.leads(token, limit if self.then is None else limit - len(self.closing) + 1)


@dataclass(frozen=True, slots=True)
class Either:
    """A point where one of several parts follows: fixed texts that differ in their first token, a grammar, the end."""

    vocabulary: Vocabulary
    kind: str
    fixed: tuple[Fixed, ...]
    constrained: Constrained | None = None
    end: bool = False

    def mask(self) -> Mask:
        first, *others = (one.mask() for one in self._parts)
        for row in others:
            first = first | row
        return first

    @property
    def _parts(self) -> Sequence[Part]:
        ending = (End(self.vocabulary, self.kind),) if self.end else ()
        return (*self.fixed, *ending, *((self.constrained,) if self.constrained else ()))

    def forced(self) -> Run:
        return ()

    def allows(self, token: int) -> bool:
        return any(one.allows(token) for one in self._parts)

    def after(self, token: int) -> Part:
        return next(one for one in self._parts if one.allows(token)).after(token)

    def fork(self) -> Either:
        return self if self.constrained is None else replace(self, constrained=self.constrained.fork())

    def completion(self, limit: int) -> list[int] | None:
        found = [path for one in self._parts if (path := one.completion(limit)) is not None]
        return min(found, key=len, default=None)

    def leads(self, token: int, limit: int) -> bool:
        # A part of which something is forced answers for no other token: here nothing is forced, in it there may be.
        return any(not one.forced() and one.leads(token, limit) for one in self._parts)
