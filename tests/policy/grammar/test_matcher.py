"""Completions of a matcher against its own masks, at random points of random texts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import inf
from typing import Any, Final

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from loaded import allowed
from schemas_at_random import SCHEMAS

from trimode.policy.calls.engine import Engine
from trimode.policy.errors import SchemaRefused
from trimode.policy.grammar.completion import CompletionSearch
from trimode.policy.grammar.matcher import Matcher
from trimode.policy.grammar.raw_matcher import RawMatcher
from trimode.policy.grammar.vocabulary import StringState
from trimode.policy.schema.targets import schema_of
from trimode.policy.schema.texts import Regex

FORCED: Final[Any] = {
    "type": "object",
    "properties": {"ab": {"type": "string", "maxLength": 2}, "cd": {"type": "string", "pattern": "^[a-z]{3}-ä$"}},
    "required": ["ab", "cd"],
    "additionalProperties": False,
}
"""A full string forces its quote and what follows, which may be one token together."""
TARGETS: Final[list[Any]] = [
    FORCED,
    {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1024, "maximum": 65535}}, "required": ["n"]},
    {"type": "array", "items": {"type": "array", "items": {"type": "number"}, "minItems": 2}, "minItems": 2},
    {"anyOf": [{"const": {"kind": "a", "x": 1}}, {"type": "object", "required": ["kind", "y"]}]},
    {},
]


def walk(engine: Engine, target: Any, rng: random.Random, steps: int = 25) -> Iterator[Matcher]:
    """A matcher at each point of a random text."""
    matcher = engine.grammars.matcher(target)
    ends = set(engine.tokens.model.config.eos_token_ids)
    for _ in range(steps):
        yield matcher
        choices = [token for token in allowed(matcher) if token not in ends]
        if not choices:
            return
        wide = [token for token in choices if len(engine.tokenizer.token(token)) <= 3] or choices
        matcher.advance([rng.choice(wide)])


def completes(matcher: Matcher, tokens: list[int]) -> bool:
    at = matcher.fork()
    for token in tokens[:-1]:
        if token not in allowed(at):
            return False
        at.advance([token])
    return tokens[-1] in allowed(at)


@pytest.mark.parametrize("target", [*map(schema_of, TARGETS), Regex(r"(ab|ac)*d{2,5}\d+-"), Regex("a{30}ä")])
@pytest.mark.parametrize("seed", range(6))
def test_endings_are_what_masks_allow(reference: Engine, target: Any, seed: int) -> None:
    """At random points, so that the known completion was kept, given up or found in between."""
    rng, ends = random.Random(seed), set(reference.tokens.model.config.eos_token_ids)
    for matcher in walk(reference, target, rng):
        if rng.random() < 0.6:
            continue
        limit = rng.choice([3, 9, 20, 60, 4000])
        ending = matcher.completion(limit)
        if ending is not None:
            assert len(ending) <= limit
            assert completes(matcher, ending)
        for token in rng.sample(some := [token for token in allowed(matcher) if token not in ends], min(3, len(some))):
            sure, ahead = matcher.leads(token, limit), matcher.fork()
            ahead.advance([token])
            assert ahead.completion(limit) is not None or not sure


@settings(max_examples=60, deadline=None, derandomize=True)
@given(document=SCHEMAS, seed=st.integers(0, 99))
def test_an_ending_goes_on_behind_each_of_its_tokens(reference: Engine, document: Any, seed: int) -> None:
    try:
        matcher = reference.grammars.matcher(schema_of(document))
    except SchemaRefused:
        assume(False)
        return
    *_, matcher = walk(reference, schema_of(document), random.Random(seed), steps=seed % 12 + 1)
    ending = matcher.completion(4000)
    assert ending is not None
    for at, token in enumerate(ending[:-1], start=1):
        assert matcher.leads(token, 10**6)
        matcher.advance([token])
        rest = matcher.completion(len(ending) - at)
        assert rest is not None
        assert completes(matcher, rest)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_known_without_a_mask_is_what_the_mask_says(reference: Engine, target: Any, seed: int) -> None:
    """Forced text alone, else all that the grammar allows; tokenizing a completion relies on this."""
    for matcher in walk(reference, schema_of(target), random.Random(seed)):
        forced, mask = matcher.forced(), set(allowed(matcher))
        # Forced text is that of the grammar. Masks then leave out repeated keys and infinite numbers, so that a single
        # token may remain where the grammar allows several.
        bare = matcher.raw.fork()
        bare.keys, bare.row = None, None
        assert bool(forced) == (len(allowed(bare)) == 1)
        assert mask == set(forced[:1]) if forced else mask <= set(allowed(bare))
        assert mask == set(allowed(bare)) or matcher.raw.keys is not None
        every = range(reference.tokenizer.vocab_size)
        blank = matcher.fork()
        blank._raw.row = None  # pyright: ignore[reportPrivateUsage]
        assert {token for token in every if blank.allows(token)} == mask


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(3))
def test_a_forced_run_is_what_masks_allow_token_by_token(reference: Engine, target: Any, seed: int) -> None:
    """However many tokens are taken at a time; after its first tokens a matcher names the same rest."""
    ends = set(reference.tokens.model.config.eos_token_ids)
    for matcher in walk(reference, schema_of(target), random.Random(seed)):
        run, at = matcher.forced(), matcher.fork()
        for token in run:
            fresh = at.fork()
            fresh._raw._forced = None  # pyright: ignore[reportPrivateUsage]
            assert at.forced()[0] == fresh.forced()[0] == token
            assert allowed(fresh) == [token]
            if token not in ends:
                at.advance([token])
        matcher.fork().advance([token for token in run if token not in ends])


def test_questions_leave_no_trace(reference: Engine) -> None:
    """A question skips a key that then comes; llguidance's own rollback would lose what follows it."""
    names = ("FullName", "PIN", "SecurityAnswer1", "SecurityAnswer2")
    document = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": []}
    known = {reference.tokenizer.token(token): token for token in range(reference.tokenizer.vocab_size)}
    asked, quiet = (
        reference.grammars.matcher(schema_of({**document, "additionalProperties": False})) for _ in range(2)
    )
    for text, draft in (
        ('{"|PIN|":"|7|4', '3|0|","|SecurityAnswer|2|":"|0'),
        ('3|0|","|SecurityAnswer|1|":"|Pop|py', ""),
    ):
        for matcher in (asked, quiet):
            matcher.advance([known[piece] for piece in text.split("|")])
        ahead = [known[piece] for piece in draft.split("|") if piece]
        assert not asked.raw.completes(ahead)
        assert all(asked.allows(token) for token in ahead[:1])
    assert torch.equal(asked.for_call().mask(), quiet.for_call().mask())


def test_a_search_serves_later_calls_that_wrote_the_same(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same remaining budget, because the result must not depend on other calls."""
    asked, search = list[int](), CompletionSearch.find

    def counted(
        self: CompletionSearch, start: RawMatcher, state: StringState, limit: int, until: float = inf
    ) -> list[int] | None:
        asked.append(limit)
        return search(self, start, state, limit, until)

    monkeypatch.setattr(CompletionSearch, "find", counted)
    kinds = {"a": {"type": "integer"}, "b": {"type": "string", "pattern": "^x+y$"}}
    tools = [{"type": "object", "properties": {name: kind}, "required": [name]} for name, kind in kinds.items()]
    found = list[Any]()
    for limit in (100, 100, 90, 100):
        matcher = reference.grammars.matcher(schema_of({"anyOf": tools}))
        for token in reference.tokenizer.encode('{"b'):
            matcher.advance([token])
        found.append(matcher.completion(limit))
    assert asked == [100, 90]
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize("step", [3, 7, 9, 60, 997, 3600, 0.25, 0.15])
@pytest.mark.parametrize("seed", range(4))
def test_a_number_with_a_divisor_can_end_soon_after_any_digits(reference: Engine, step: float, seed: int) -> None:
    """Digits taken in turn never get from 1 to a multiple of 3, so each digit but a multiple's own would be refused."""
    target = {"type": "object", "properties": {"n": {"type": "number", "multipleOf": step}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    *_, matcher = walk(reference, schema_of(target), random.Random(seed), steps=6)
    completion = matcher.completion(4000)
    assert completion is not None
    assert len(completion) <= 12
    assert completes(matcher, completion)
