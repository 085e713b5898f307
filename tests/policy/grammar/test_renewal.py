"""Grammars whose lexer is exhausted in the middle of a text: recompiled, or completed by the known text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from llguidance import LLMatcher, LLParserLimits
from loaded import allowed

import trimode as tm
from trimode.engine.result import Mode
from trimode.policy.audit.trail import verify
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import GrammarRuntimeError
from trimode.policy.grammar import recompile
from trimode.policy.grammar.compiler import GrammarCompiler
from trimode.policy.grammar.matcher import Matcher
from trimode.policy.schema.targets import schema_of
from trimode.policy.schema.texts import Regex

WORDS: Final = {"type": "string", "pattern": r"^(?:\S+\s+){0,49}\S+$", "minLength": 1, "maxLength": 500}
"""A pattern that takes some 20 times the work that llguidance's limits allow between two masks."""
SCHEMA: Final[Any] = {
    "type": "object",
    "properties": {"a": WORDS, "b": WORDS},
    "required": ["a", "b"],
    "additionalProperties": False,
}
MODES: Final[tuple[Mode, ...]] = ("ar", "linear_spec", "quadratic_spec", "diffusion")
TEXT: Final = '{"a":"' + "ab cd efg h i jk lm no " * 5 + 'pq","b":"'
ANEW: Final = "the grammar was compiled anew"
Limit = Callable[..., None]


@pytest.fixture
def limit(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Sets the fuel for a mask in first compilations (`first`) and in later ones (`later`)."""
    made = GrammarCompiler._parse  # pyright: ignore[reportPrivateUsage]

    def set_fuel(first: int | None = None, later: int | None = None) -> None:
        reference.grammars._cached.cache_clear()  # pyright: ignore[reportPrivateUsage]

        def narrow(self: GrammarCompiler, grammar: str, limits: LLParserLimits | None = None) -> LLMatcher:
            return made(self, grammar, limits or LLParserLimits(step_lexer_fuel=first))

        if first is not None:
            monkeypatch.setattr(GrammarCompiler, "_parse", narrow)
        if later is not None:
            monkeypatch.setattr(recompile, "_WIDE", LLParserLimits(initial_lexer_fuel=100_000, step_lexer_fuel=later))

    return set_fuel


def tokens(engine: Engine) -> list[int]:
    """TEXT by characters, so that no token is longer than what the grammar forces."""
    return [token for character in TEXT for token in engine.tokenizer.encode(character)]


def asked_all_along(matcher: Matcher, text: list[int]) -> None:
    for token in text:
        matcher.advance([token])
        matcher.mask()


def decoded(engine: Engine, mode: Mode, seed: int, most: int = 26) -> tm.Result:
    return engine.generate(prompt="Say a lot.", mode=mode, schema=SCHEMA, temperature=1.5, seed=seed, max_tokens=most)


@pytest.mark.parametrize(("fuel", "seed"), [(400, 0), (20_000, 1)])
def test_a_call_goes_on_with_the_same_tokens(reference: Engine, limit: Limit, fuel: int, seed: int) -> None:
    limit(first=10**8)
    whole = {mode: decoded(reference, mode, seed) for mode in MODES}
    assert not any(ANEW in note for result in whole.values() for note in result.notes)
    limit(first=fuel)
    for mode in MODES:
        reference.grammars._cached.cache_clear()  # pyright: ignore[reportPrivateUsage]
        again = decoded(reference, mode, seed)
        assert again.valid
        assert any(note.startswith(ANEW) for note in again.notes) or fuel > 400
        assert [note for note in again.notes if ANEW not in note] == list(whole[mode].notes)
        assert again.token_ids == whole[mode].token_ids
        assert again.token_ids == whole["ar"].token_ids or mode == "diffusion"


def test_masks_behind_a_lexer_that_is_used_up(reference: Engine, limit: Limit) -> None:
    """With llguidance's own limits, after many tokens without a mask, whatever is asked first."""
    limit(first=10**8)
    sound, text = reference.grammars.matcher(schema_of(SCHEMA)), tokens(reference)
    sound.advance(text)
    limit()
    asks: list[Callable[[Matcher], object]] = [
        lambda matcher: matcher.mask().tolist(),
        lambda matcher: [token for token in range(60, 400) if matcher.allows(token)],
        lambda matcher: matcher.forced(),
        lambda matcher: [matcher.leads(token, limit) for token in range(300, 320) for limit in (40, 8)],
        lambda matcher: matcher.completion(40),
    ]
    for ask in asks:
        reference.grammars._cached.cache_clear()  # pyright: ignore[reportPrivateUsage]
        used = reference.grammars.matcher(schema_of(SCHEMA))
        used.advance(text[:6])
        for token in text[6:]:
            used.advance([token])
        assert used.grammar.recompilations == 1
        assert ask(used) == ask(sound.fork())
        assert torch.equal(used.mask(), sound.mask())


def test_later_calls_find_the_new_compilation(reference: Engine, limit: Limit) -> None:
    limit(first=400)
    schema, text = schema_of(SCHEMA), tokens(reference)
    early, first = reference.grammars.matcher(schema), reference.grammars.matcher(schema)
    first.advance(text)
    later = reference.grammars.matcher(schema)
    later.advance(text)
    early.advance(text)
    assert first.grammar.compiled is later.grammar.compiled
    made = first.grammar.compiled.version
    assert (later.grammar.recompilations, later.grammar.version) == (0, made)
    assert (early.grammar.recompilations, early.grammar.version) == (1, made), "a call that began before takes it, too"
    assert allowed(early) == allowed(later) == allowed(first)


@pytest.mark.parametrize("seed", range(3))
def test_what_no_compilation_carries_is_ended_by_force(
    reference: Engine, limit: Limit, tmp_path: Path, seed: int
) -> None:
    """Modes may differ, because they ask differently before the grammar stops; each result has a note."""
    limit(first=8_000, later=8_000)
    path, written, forced = tmp_path / "audit.jsonl", list[bool](), list[bool]()
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}"):
        for mode in MODES:
            limit()
            result = decoded(reference, mode, seed)
            assert result.valid
            assert result.finish_reason == "stop"
            renewed = any(note.startswith(ANEW) for note in result.notes)
            assert renewed or result.notes == ()  # a text may end before the grammar does
            written.append(any("the known ending was written" in note for note in result.notes))
            assert written[-1] == renewed
            forced.append(result.forced_close)  # not where the model would have written the known ending itself
    assert sum(written) >= 3
    assert any(forced)
    assert verify(path) == []


@pytest.mark.parametrize("mode", MODES)
def test_the_least_budget_holds_where_the_grammar_stops(reference: Engine, limit: Limit, mode: Mode) -> None:
    limit(first=8_000, later=8_000)
    shortest = reference.grammars.matcher(schema_of(SCHEMA)).completion(100)
    assert shortest is not None
    for seed in range(3):
        result = decoded(reference, mode, seed, len(shortest))
        assert result.valid
        assert len(result.token_ids) <= len(shortest)


def test_where_no_ending_is_known_the_error_says_why(reference: Engine, limit: Limit) -> None:
    limit(first=15_000, later=15_000)
    matcher = reference.grammars.matcher(schema_of(SCHEMA))
    with pytest.raises(GrammarRuntimeError, match="stopped"):
        asked_all_along(matcher, tokens(reference))
    assert matcher.completion(4000) is None
    assert not matcher.leads(300, 4000)
    assert not matcher.allows(300)


def test_plain_texts_are_renewed_too(reference: Engine, limit: Limit) -> None:
    limit(first=400)
    matcher = reference.grammars.matcher(Regex(r"[a-z]+( \S+){0,49}"))
    for token in [token for character in "ab cd efg h i jk" * 6 for token in reference.tokenizer.encode(character)]:
        assert token in allowed(matcher)
        matcher.advance([token])
    assert matcher.grammar.recompilations == 1
