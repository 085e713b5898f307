"""Source of a grammar's matchers: compiled once, copied for each call, recompiled when its lexer is exhausted.

Knows llguidance's matchers and limits. Does not know schemas or how completions are searched. All copies of a compiled
grammar share one lexer, which limits its states and the work between two masks. Beyond a limit it refuses tokens that
fit, mostly without an error; so each call keeps a canary, a copy at the start of the text that is fed the same valid
token again and again and refuses it once the lexer is exhausted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from trimode.engine.locks import ForkSafeLock

from ..errors import GrammarRuntimeError
from ..watchdog import OutOfTime, in_time
from .vocabulary import Run, Vocabulary

Make = Callable[[LLParserLimits | None], LLMatcher]
"""Compiles a grammar under limits; None: llguidance's defaults, which the first compilation uses."""
SECONDS: Final = 0.5
"""CPU seconds that recompiling may take; the first compilation took less than a fifth of that."""
_WIDE: Final = LLParserLimits(
    max_items_in_row=20_000, initial_lexer_fuel=10**15, step_lexer_fuel=10_000_000, step_max_items=2_500_000
)
"""Limits of a recompilation: some 50 times llguidance's defaults, and no limit on reading the text again. A mask that
uses all the fuel takes 0.3 s."""

_COMPLETIONS: Final = 64
"""Number of completion searches cached for each grammar; the cache is emptied when full."""
_EARLY: Final = 64
"""Length in tokens of a text up to which its searches are cached, because repeated text, such as a tool's name, comes
early."""
_FIRST_CHARACTERS: Final = '{["-0tfn'
"""Characters with which most JSON texts begin."""


class CompiledGrammar:
    """A compiled grammar. Threads may share it.

    `version`: how often it was recompiled. `probe`: one token that may come first; empty where only the empty text
    fits, None where even the first mask failed.
    """

    version: int

    def __init__(self, first: LLMatcher, make: Make, vocabulary: Vocabulary) -> None:
        self._start, self._make, self.version = first, make, 0
        self._lock, self._completions = ForkSafeLock(), dict[tuple[Run, int], list[int] | None]()
        self._vocabulary, self.probe = vocabulary, _probe(first, vocabulary)

    def start(self) -> tuple[LLMatcher, int]:
        """A copy at the start of the text, and its version."""
        with self._lock:
            return self._start.deep_copy(), self.version

    def completion(self, asked: tuple[Run, int], search: Callable[[], list[int] | None]) -> list[int] | None:
        """The completion after some tokens within a limit (`asked`): the result of `search`, cached for later calls."""
        cached = self._completions
        if asked in cached:
            return cached[asked]
        found = search()
        if len(asked[0]) > _EARLY:
            return found
        if len(self._completions) >= _COMPLETIONS:
            self._completions = {}
        self._completions[asked] = found
        return found

    def recompile(self, exhausted: int) -> None:
        """Recompiles the grammar, unless its version is beyond `exhausted` already. Raises GrammarRuntimeError."""
        with self._lock:
            if self.version > exhausted:
                return
            try:
                found = in_time(lambda: self._make(_WIDE), SECONDS, kind="renew")
            except OutOfTime as error:
                raise GrammarRuntimeError(f"the grammar engine stopped, and recompiling failed: {error}") from None
            if found.is_error():
                raise engine_stopped(found)
            self._start, self.version = found, self.version + 1
            self.probe = _probe(found, self._vocabulary) if self.probe is None else self.probe


class CallGrammar:
    """One call's handle on a grammar. Every matcher of the call shares it; no two threads use it at a time.

    `version`: the compilation of the grammar that the call uses. `recompilations`: how often it took a later one.
    `failures`: the engine's message for each text (in tokens) after which even a recompiled grammar failed.
    """

    version: int
    recompilations: int
    failures: dict[tuple[int, ...], str]

    def __init__(self, compiled: CompiledGrammar) -> None:
        self.compiled = compiled
        self._canary, self.version = compiled.start()
        self.recompilations = 0
        self.failures = dict[tuple[int, ...], str]()

    def for_call(self) -> CallGrammar:
        """A handle on the same grammar for another call."""
        return CallGrammar(self.compiled)

    def start(self) -> LLMatcher:
        """A copy of the call's compilation at the start of the text."""
        return self._canary.deep_copy()

    def is_exhausted(self, matcher: LLMatcher) -> bool:
        """Whether the lexer is exhausted, so that the last answer of `matcher` may be wrong."""
        probe, canary = self.compiled.probe, self._canary
        if probe is None or matcher.is_error() or canary.try_consume_tokens(probe) < len(probe):
            return True
        canary.rollback(len(probe))
        return canary.is_error()

    def recompile(self) -> None:
        """Takes a later compilation than the present one. Raises GrammarRuntimeError where compiling fails."""
        self.compiled.recompile(self.version)
        self._canary, self.version = self.compiled.start()
        self.recompilations += 1

    def failure(self, tokens: Sequence[int]) -> tuple[int, str] | None:
        """The number of an output's tokens after which the grammar failed, and the reason; None where it did not.

        Failures after other tokens, which drafts and lookahead may have met, do not count.
        """
        found = ((len(text), reason) for text, reason in self.failures.items() if tuple(tokens[: len(text)]) == text)
        return min(found, default=None)


def engine_stopped(matcher: LLMatcher) -> GrammarRuntimeError:
    """The error for a matcher that stopped: llguidance's message, where it has one."""
    lines = matcher.get_error().splitlines()
    return GrammarRuntimeError(f"the grammar engine stopped: {lines[0] if lines else 'its lexer is exhausted'}")


def _probe(start: LLMatcher, vocabulary: Vocabulary) -> list[int] | None:
    """A token that may come first, alone in a list: a usual character, else any token of the first mask but an end."""
    likely = (vocabulary.characters.get(character) for character in _FIRST_CHARACTERS)
    guess = next((token for token in likely if token is not None and start.validate_tokens([token])), None)
    if guess is not None:
        return [guess]
    at = start.deep_copy()
    mask = np.frombuffer(at.compute_bitmask(), dtype=np.uint32)
    if at.is_error():
        return None
    allowed = (int(word) * 32 + bit for word in np.flatnonzero(mask) for bit in range(32) if mask[word] >> bit & 1)
    return next(([token] for token in allowed if token not in vocabulary.all_ends), [])
