"""Targets for plain text: which texts fit, what validates them, what is refused, and what masks allow."""

from __future__ import annotations

import random
import re
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loaded import allowed

import trimode as tm
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import (
    MalformedGrammar,
    SchemaError,
    SchemaRefused,
    SchemaViolation,
    UnsatisfiableSchema,
    UnsupportedSyntax,
)
from trimode.policy.grammar.compiler import check
from trimode.policy.grammar.walker import Walker
from trimode.policy.json_schema.regex_dialect import misread, narrowed
from trimode.policy.schema.targets import Schema, Target, schema_of
from trimode.policy.schema.texts import Choice, Lark, Regex

GREETING = Lark('start: "hello" (" " name)+ "!"\nname: "Ann" | /B[a-z]{1,3}/')
TARGETS: list[Target] = [
    Regex(r"\d{4}-(?:0[1-9]|1[0-2])"), Regex(r"[^\W\d]{1,5}|/x[\]/]"), Regex(r"(?i:yes|no)\.?"),
    Regex(r"^a+?b$"), Regex(""),
    Choice(["yes", "no", "yes, but"]), Choice(['say "ü"\n', "\\", "\t/"]), GREETING,
]  # fmt: skip


def walked(reference: Engine, target: Target, seed: int) -> str | None:
    """A random text that the masks allow, None where it did not end in time."""
    end = reference.tokens.model.config.eos_token_ids[0]
    matcher, rng, ids = reference.grammars.matcher(target), random.Random(seed), list[int]()
    for _ in range(40):
        choices = allowed(matcher)
        if end in choices and (len(choices) == 1 or rng.random() < 0.5):
            return reference.tokenizer.decode(ids)
        ids.append(rng.choice([token for token in choices if token != end]))
        matcher.advance(ids[-1:])
    return None


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.text[:40])
def test_whatever_the_masks_allow_is_taken(reference: Engine, target: Target) -> None:
    check(target)
    ended = [text for seed in range(20) if (text := walked(reference, target, seed)) is not None]
    assert ended
    for text in ended:
        assert target.parse(text) == text


@pytest.mark.parametrize(
    ("target", "texts"),
    [
        (Regex(r"\w+@\w+\.[a-z]{2}"), ["ann@b_1.ch"]),
        (Regex(r"a/b\n?"), ["a/b", "a/b\n"]),
        (Choice(["yes", 'a "b"\\\n', "ü"]), ["yes", 'a "b"\\\n', "ü"]),
        (GREETING, ["hello Ann!", "hello Bob Ann!"]),
    ],
)
def test_texts_that_fit_are_what_the_masks_allow(reference: Engine, target: Target, texts: list[str]) -> None:
    walker = Walker(reference.tokenizer, reference.tokens.model.config.eos_token_ids[0])
    for text in texts:
        assert walker.refused_at(reference.grammars.matcher(target), text) is None
        assert target.parse(text) == text
        assert walker.refused_at(reference.grammars.matcher(target), text + "?") is not None


@pytest.mark.parametrize(("target", "text"), [(Regex("a+"), "ab"), (Choice(["a", "b"]), "c")])
def test_text_that_does_not_fit_is_a_violation(target: Target, text: str) -> None:
    with pytest.raises(SchemaViolation) as caught:
        target.parse(text)
    assert caught.value.text == text


def test_who_checks_is_said() -> None:
    assert Regex("a+").remarks("a") == Choice(["a"]).remarks("a") == []
    assert Regex("(a*)*b").validator is None
    assert ["enforced by the grammar alone" in Regex("(a*)*b").remarks("b")[0], len(GREETING.remarks(""))] == [True, 1]


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Regex("("), MalformedGrammar, "not a regex: missing"),
        (lambda: Regex(5), MalformedGrammar, "expected text"),  # type: ignore[arg-type]  # pyright: ignore
        (lambda: Regex("\ud800"), MalformedGrammar, "surrogate"),
        (lambda: Regex("a" * 20_000), SchemaRefused, "at most 10,000"),
        (lambda: Regex("(?=a)b"), UnsupportedSyntax, "look-around"),
        (lambda: Regex(r"\ba"), UnsupportedSyntax, "look-around"),
        (lambda: Regex(r"(a)\1"), UnsupportedSyntax, "back reference"),
        (lambda: Regex("a++b"), UnsupportedSyntax, "possessive"),
        (lambda: Regex("[a[b]]"), UnsupportedSyntax, "bracket"),
        (lambda: Regex("[a&&b]"), UnsupportedSyntax, "operator"),
        (lambda: Regex("(?x)a b"), UnsupportedSyntax, "flags"),
        (lambda: Regex(r"[^\s\S]"), UnsatisfiableSchema, "no text fits it"),
        (lambda: Choice([]), MalformedGrammar, "each of them once"),
        (lambda: Choice("yes"), MalformedGrammar, "each of them once"),
        (lambda: Choice(["a", "a"]), MalformedGrammar, "each of them once"),
        (lambda: Choice([1]), MalformedGrammar, "expected text"),  # type: ignore[list-item]  # pyright: ignore
        (lambda: Lark(""), MalformedGrammar, "not a lark: Empty"),
        (lambda: Lark('start "a"'), MalformedGrammar, "Expected token"),
        (lambda: Lark("start: b"), MalformedGrammar, "unknown name"),
        (lambda: Lark("start: x\nx[max_tokens=3]: /a+/"), UnsupportedSyntax, "line 2: rule attributes"),
        (lambda: Lark('%llguidance {"no_forcing": true}\nstart: "a"'), UnsupportedSyntax, "line 1: engine options"),
        (lambda: Lark("start: %json {}"), UnsupportedSyntax, "embedded schemas"),
        (lambda: Lark("start: <|im_end|>"), UnsupportedSyntax, "control tokens"),
        (lambda: Lark("start: /(?=a)b/"), UnsupportedSyntax, "look-around"),
    ],
)  # fmt: skip
def test_refused_with_a_reason(reference: Engine, make: Any, kind: type[SchemaRefused], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)) as caught:
        reference.grammars.matcher(make())
    assert caught.value.keyword
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_what_looks_like_a_construct_in_a_text_or_comment_is_none() -> None:
    check(Lark('start: "%json <x> a[b]" /<[a-z]>/ // %llguidance <|x|>'))


def test_forms_that_schema_of_reads() -> None:
    for target in TARGETS:
        assert schema_of(target) is target
        assert schema_of(target.document) == target
        assert schema_of(target.document).sha256 == target.sha256
    assert schema_of(Annotated[str, Regex("a")]) == Regex("a")
    assert isinstance(schema_of({"x-regex": "a", "type": "string"}), Schema)
    with pytest.raises(SchemaError, match="one regex"):
        schema_of(Annotated[int, Regex("1")])
    with pytest.raises(SchemaError, match="no formats"):
        schema_of(Regex("a"), formats="annotate")


def test_a_text_target_is_no_field() -> None:
    with pytest.raises(SchemaError, match="whole output"):
        schema_of(dict[str, Annotated[str, Regex("a")]])


def greet() -> Annotated[str, Regex("hi|ho")]:  # pyright: ignore[reportReturnType] - the model returns it
    """Say it."""


def test_a_step_and_a_call_are_held_to_a_text(reference: Engine) -> None:
    made = tm.step(greet)
    assert (made.spec.kind, made.spec.schema) == ("prose", Regex("hi|ho"))
    for mode in ("ar", "diffusion", "linear_spec"):
        result = reference.generate("Say it: ", schema=tm.Choice(["yes", "no"]), mode=mode, max_tokens=8)
        assert result.value in ("yes", "no")
        assert result.valid
    result = reference.generate("Say it: ", schema=Lark('start: "a" | "b"').document, max_tokens=8)
    assert (result.valid, result.notes[-1][:39]) == (True, "the lark was enforced by the grammar al")


PIECES = st.sampled_from(
    ["a", "b", ".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "[ab]", r"[^a]", r"[\w-]", r"[^\W_]", r"[\s\S]", r"[^\d]",
     "x?", "(?:a|b)", "a{1,2}", r"\.", "é", "[^é]"]
)  # fmt: skip
LETTERS = st.text(st.sampled_from("abxé_-. \n\t\x1c\x85\u00a0\u2028\u0663\u00b2\ufeff1"), max_size=4)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(pieces=st.lists(PIECES, min_size=1, max_size=4), text=LETTERS)
def test_a_grammar_never_takes_what_python_refuses(reference: Engine, pieces: list[str], text: str) -> None:
    pattern = "".join(pieces)
    walker = Walker(reference.tokenizer, reference.tokens.model.config.eos_token_ids[0])
    if walker.refused_at(reference.grammars.matcher(Regex(pattern)), text) is None:
        assert re.fullmatch(pattern, text)


@given(st.text(r"ab[]^\-&~+*?{}(),x1", max_size=12))
def test_any_text_is_read_or_misread(text: str) -> None:
    assert misread(text) is not None or isinstance(narrowed(text), str)


@pytest.mark.parametrize(
    "target", [Regex(r"\w+@\w+\.[a-z]{3}"), Regex(r"(\w+ ){3}\w+\."), Choice(["much too long", "no"])]
)
def test_the_shortest_text_of_a_target_is_known_at_once(reference: Engine, target: Target) -> None:
    """A search by single characters would walk such loops for half a second."""
    ending = reference.grammars.matcher(target).completion(20)
    assert ending
    text = reference.tokenizer.decode(ending[:-1])
    assert target.parse(text) == text
    assert len(text) <= 9
