"""Grammars against jsonschema on random schemas, and against themselves after any history of steps."""

from __future__ import annotations

import random
from typing import Any

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from loaded import SHORT, allowed
from schemas_at_random import SCHEMAS, VALUES

from trimode.engine.decoding.gate import Gate
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import SchemaRefused, SchemaViolation
from trimode.policy.grammar.matcher import Matcher
from trimode.policy.grammar.walker import Walker
from trimode.policy.json_schema.serialize import texts_of
from trimode.policy.schema.targets import schema_of

Json = Any


@settings(max_examples=150, deadline=None, derandomize=True)
@given(document=SCHEMAS, values=st.lists(VALUES, min_size=1, max_size=6))
def test_grammar_and_jsonschema_agree(reference: Engine, document: Json, values: list[Json]) -> None:
    """Keys are written in the order of the schema; in another order the grammar refuses, which is documented."""
    schema = schema_of(document)
    try:
        compiled = reference.grammars.compile(schema)
    except SchemaRefused:
        assume(False)
        return
    walker = Walker(reference.tokenizer, reference.tokens.model.config.eos_token_ids[0])
    for value in values:
        texts = list(dict.fromkeys(texts_of(value, compiled.document)))
        taken = [walker.refused_at(compiled.start.fork(), text) is None for text in texts]
        assert any(taken) == fits(schema, texts[0]), (texts, taken)


def fits(schema: Any, text: str) -> bool:
    try:
        schema.parse(text)
    except SchemaViolation:
        return False
    return True


class Steps(RuleBasedStateMachine):
    """Matchers that advance, fork and continue from earlier points, each with its tokens."""

    points = Bundle("points")
    engine: Engine
    latest: tuple[Matcher, tuple[int, ...]]

    @initialize(target=points, document=st.sampled_from([SHORT, {"type": "array", "items": {"type": "number"}}, {}]))
    def start(self, document: Json) -> tuple[Matcher, tuple[int, ...]]:
        self.schema = schema_of(document)
        self.latest = (self.engine.grammars.matcher(self.schema), ())
        return self.latest

    @rule(target=points, point=points, rng=st.randoms(use_true_random=False), count=st.integers(1, 4))
    def take(self, point: tuple[Matcher, tuple[int, ...]], rng: random.Random, count: int) -> Any:
        matcher, ids = point[0].fork(), point[1]
        for _ in range(count):
            choices = [token for token in allowed(matcher) if token not in self.ends]
            if not choices:
                break
            ids += (rng.choice(choices),)
            matcher.advance(ids[-1:])
        self.latest = (matcher, ids)
        return self.latest

    @rule(point=points)
    def end(self, point: tuple[Matcher, tuple[int, ...]]) -> None:
        self.latest = point
        if self.ends & set(allowed(point[0])):
            Gate(point[0], tuple(self.ends)).advance(list(self.ends)[:1])

    @property
    def ends(self) -> set[int]:
        return set(self.engine.tokens.model.config.eos_token_ids)

    @invariant()
    def the_mask_is_that_of_a_matcher_that_never_went_back(self) -> None:
        if hasattr(self, "latest"):
            fresh = self.engine.grammars.compile(self.schema).start
            fresh.advance(self.latest[1])
            assert torch.equal(fresh.mask(), self.latest[0].mask())


def test_masks_after_any_history(reference: Engine) -> None:
    Steps.engine = reference
    run_state_machine_as_test(
        Steps, settings=settings(max_examples=20, stateful_step_count=15, deadline=None, derandomize=True)
    )
