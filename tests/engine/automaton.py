"""A toy `Constraint`: a finite automaton over token ids, random but without dead ends."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trimode.engine.constraint import WHOLE
from trimode.engine.result import Section


@dataclass
class Automaton:
    """A finite automaton: `moves[state][token]` is the next state; in a state of `accepting` the text may end."""

    moves: Mapping[int, Mapping[int, int]]
    accepting: frozenset[int]
    ends: tuple[int, ...]
    vocab: int
    state: int = 0
    seen: list[int] = field(default_factory=list[int])

    @property
    def section(self) -> Section:
        return WHOLE

    def mask(self) -> Tensor:
        words = np.zeros(-(-self.vocab // 32), dtype=np.uint32)
        for token in self._next:
            words[token // 32] |= np.uint32(1 << token % 32)
        return torch.from_numpy(words.view(np.int32))

    def forced(self) -> list[int]:
        """Returns up to three tokens, so that a forced run takes several calls."""
        at, run = self.fork(), list[int]()
        while len(run) < 3 and len(at._next) == 1:
            run += at._next
            if run[-1] in self.ends:
                break
            at.advance(run[-1:])
        return run

    def allows(self, token: int) -> bool:
        return token in self._next

    @property
    def _next(self) -> tuple[int, ...]:
        return (*self.moves[self.state], *(self.ends if self.state in self.accepting else ()))

    def advance(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            assert token not in self.ends, "end tokens never reach a constraint"
            self.state = self.moves[self.state][token]
            self.seen.append(token)

    def fork(self) -> Automaton:
        return Automaton(self.moves, self.accepting, self.ends, self.vocab, self.state, list(self.seen))

    def completion(self, limit: int) -> list[int] | None:
        """Returns the shortest completion, by breadth-first search, the lowest tokens first."""
        queue, met = deque([(self.state, list[int]())]), {self.state}
        while queue:
            state, path = queue.popleft()
            if state in self.accepting:
                return [*path, self.ends[0]] if len(path) < limit else None
            for token in sorted(self.moves.get(state, ())):
                if self.moves[state][token] not in met:
                    met.add(self.moves[state][token])
                    queue.append((self.moves[state][token], [*path, token]))
        return None

    def leads(self, token: int, limit: int, /) -> bool:
        """Looks two tokens ahead at most, so that longer completions have to be searched for."""
        return self.completion_after(token, min(limit, 2)) is not None

    def completion_after(self, token: int, limit: int) -> list[int] | None:
        if token not in self.moves[self.state]:
            return None
        ahead = self.fork()
        ahead.advance([token])
        return ahead.completion(limit)


def accepts(automaton: Automaton, tokens: Sequence[int]) -> bool:
    """Returns whether `tokens`, from the start, follow the automaton; an end token must come last and where it may."""
    state = 0
    for at, token in enumerate(tokens):
        if token in automaton.ends:
            return state in automaton.accepting and at == len(tokens) - 1
        if token not in automaton.moves[state]:
            return False
        state = automaton.moves[state][token]
    return True


def random_automaton(seed: int, vocab: int, usable: Sequence[int], ends: Sequence[int], states: int = 12) -> Automaton:
    """Returns an automaton in which a third of the states force their token; each state continues or may end."""
    chance = random.Random(seed)
    text = [token for token in usable if token not in ends]
    moves: dict[int, dict[int, int]] = {}
    accepting: set[int] = set()
    for state in range(states):
        width = chance.choice([1, 1, 2, 4, len(text) // 2, len(text)])
        moves[state] = {token: chance.randrange(states) for token in chance.sample(text, width)}
        if width > 1 and chance.random() < 0.3:
            accepting.add(state)
    final = states
    moves[final] = {}
    accepting.add(final)
    for token in list(moves[states - 1]):
        moves[states - 1][token] = final
    return Automaton(moves, frozenset(accepting), tuple(ends), vocab)
