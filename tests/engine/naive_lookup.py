"""Drafts copied from known text, by comparing every place of every run: what `engine/decoding/lookup.py` must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from trimode.engine.constraint import Constraint
from trimode.engine.decoding.lookup import CANDIDATES, LONGEST, TRUST

Place = tuple[int, int]
"""A run's number, and the number of tokens before the place in that run."""


def matches(runs: Sequence[Sequence[int]], text: Sequence[int], size: int) -> list[tuple[Place, int]]:
    """Every place after which a run goes on, the latest first, and how many tokens before it are the last of `text`."""
    found: list[tuple[Place, int]] = []
    for number in reversed(range(len(runs))):
        run = runs[number]
        for at in reversed(range(1, len(run))):
            length = 0
            while length < min(at, len(text), LONGEST) and run[at - 1 - length] == text[-1 - length]:
                length += 1
            if length >= size:
                found.append(((number, at), length))
    return found


def longest(
    runs: Sequence[Sequence[int]], text: Sequence[int], size: int, allows: Callable[[int], bool]
) -> tuple[Place, int] | None:
    latest = [(place, length) for place, length in matches(runs, text, size)[:CANDIDATES]]
    fitting = [(place, length) for place, length in latest if allows(runs[place[0]][place[1]])]
    best = max((length for _, length in fitting), default=0)
    return next(((place, length) for place, length in fitting if length == best), None)


def copied(
    runs: Sequence[Sequence[int]],
    size: int,
    limit: int,
    ends: Sequence[int],
    rule: Constraint | None = None,
) -> list[int]:
    """The draft after the last of `runs`, under a constraint whose masks alone are asked."""
    own, draft, trusted = len(runs) - 1, list[int](), limit
    rule, place = None if rule is None else rule.fork(), None
    while len(draft) < limit and (not draft or draft[-1] not in ends):
        allowed = None if rule is None else bits(rule)
        text = [*runs[own], *draft]
        grown = [*runs[:own], text]
        if allowed is not None and len(allowed) == 1:
            token = allowed[0]
        else:
            if place is None or not fits(allowed, grown[place[0]][place[1]]):
                match = longest(runs, text, size, partial(fits, allowed))
                if match is None:
                    break
                place, trusted = match[0], min(trusted, TRUST * match[1])
            if not trusted:
                break
            token, trusted = grown[place[0]][place[1]], trusted - 1
        goes_on = place is not None and grown[place[0]][place[1]] == token
        draft.append(token)
        if rule is not None and token not in ends:
            rule.advance([token])
        place = (place[0], place[1] + 1) if goes_on and place is not None else None
        if place is not None and place[1] >= len(([*runs[:own], [*text, token]])[place[0]]):
            place = None  # the end of an earlier run
    return draft


def fits(allowed: Sequence[int] | None, token: int) -> bool:
    return allowed is None or token in allowed


def bits(rule: Constraint) -> list[int]:
    """The tokens whose bit is set, one by one."""
    words = rule.mask().tolist()
    return [32 * at + bit for at, word in enumerate(words) for bit in range(32) if word >> bit & 1]
