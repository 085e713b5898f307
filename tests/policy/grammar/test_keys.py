"""No object gets a key twice: the tracked state against Python's json, and what masks allow."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loaded import allowed

from trimode.engine.result import Mode
from trimode.policy.calls.engine import Engine
from trimode.policy.grammar.object_keys import KeyTokens, ObjectKeys
from trimode.policy.json_schema.open_parts import may_repeat
from trimode.policy.schema.targets import doubled_keys, schema_of

KEYS = st.text('ab"\\{}[],:ä\n', max_size=3)
VALUES = st.recursive(
    st.one_of(st.none(), st.integers(0, 99), KEYS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
NAMED: Any = {"type": "object", "patternProperties": {"^[a-d]$": {"type": "boolean"}}, "additionalProperties": False}
LOOSE: list[Any] = [
    {"type": "object"},
    NAMED,
    {"type": "object", "patternProperties": {"^[ab]$": {"type": "integer"}}, "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "object"}}, "required": ["a"], "minProperties": 3},
    {"type": "array", "items": {"type": "object", "additionalProperties": {"enum": [1, 2]}}, "minItems": 2},
]


def pairs(text: str, rng: random.Random) -> str:
    """`text` cut into pieces, as tokens do."""
    cuts = sorted(rng.sample(range(len(text) + 1), min(len(text), 4)))
    return "\0".join(text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))


@given(value=VALUES, ascii_only=st.booleans(), rng=st.randoms(use_true_random=False))
def test_texts_without_doubled_keys_pass_however_they_are_cut(value: Any, ascii_only: bool, rng: random.Random) -> None:
    keys: ObjectKeys | None = ObjectKeys()
    text = json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":")).encode().decode("latin-1")
    for piece in pairs(text, rng).split("\0"):
        assert keys is not None
        keys = keys.after(piece)
    assert keys is not None
    assert keys.open == ()


@given(
    names=st.lists(KEYS, min_size=1, max_size=3, unique=True),
    again=st.integers(0, 2),
    escaped=st.booleans(),
    inner=VALUES,
    rng=st.randoms(use_true_random=False),
)
def test_a_key_that_comes_again_is_found_however_it_is_spelled(
    names: list[str], again: int, escaped: bool, inner: Any, rng: random.Random
) -> None:
    name = names[again % len(names)]
    written = [json.dumps(one, ensure_ascii=False) for one in names]
    written.append('"' + "".join(f"\\u{ord(one):04x}" for one in name) + '"' if escaped else json.dumps(name))
    value = json.dumps(inner, separators=(",", ":"))
    text = "[{" + ",".join(f"{one}:{value}" for one in written) + "}]"
    assert doubled_keys(text)
    keys: ObjectKeys | None = ObjectKeys()
    for piece in pairs(text.encode().decode("latin-1"), rng).split("\0"):
        keys = None if keys is None else keys.after(piece)
    assert keys is None


@given(
    text=st.sampled_from(
        ['{"a":1,"ab":2,"', '{"a":{"b":1},"', '{"ä":1,"\\n":[{"ä":2}],"', '{"a":1,"b":"', '{"a":1,",":2,']
    ),
    more=st.text('ab\\nä"', max_size=2),
    half=st.booleans(),
)
def test_the_tokens_that_would_double_a_key(text: str, more: str, half: bool) -> None:
    texts = [
        '\xa4"',
        '"a"',
        '","',
        *(one.encode().decode("latin-1") for one in ('a"', '"', 'b":', 'b":{"', '":1,"a":', 'n"', "ab", 'ä"', "\\n")),
    ]
    keys = ObjectKeys().after((text + more).encode().decode("latin-1")[: -1 if half else None])
    if keys is not None:
        expected = {token for token, one in enumerate(texts) if keys.after(one) is None}
        assert set(KeyTokens(texts).duplicating(keys)) == expected


@pytest.mark.parametrize("document", LOOSE)
@pytest.mark.parametrize("seed", range(5))
def test_masks_never_double_a_key(reference: Engine, document: Any, seed: int) -> None:
    rng = random.Random(seed)
    matcher, text = reference.grammars.matcher(schema_of(document)), ""
    ends = set(reference.tokens.model.config.eos_token_ids)
    for _ in range(60):
        choices = [token for token in allowed(matcher) if token not in ends]
        short = [token for token in choices if reference.tokenizer.token(token) in {"a", "b", '"', ":", ",", "1", "{"}]
        if not choices:
            break
        token = rng.choice(short or choices)
        ahead = matcher.fork()
        ahead.advance([token])
        if ahead.completion(300) is None:
            continue
        matcher, text = ahead, text + reference.tokenizer.token(token)
    ending = matcher.completion(300)
    assert ending is not None
    assert doubled_keys(text + "".join(reference.tokenizer.token(one) for one in ending[:-1])) == []


@pytest.mark.parametrize("mode", ["ar", "linear_spec", "quadratic_spec", "diffusion"])
@pytest.mark.parametrize("seed", range(3))
def test_no_mode_doubles_a_key(reference: Engine, mode: Mode, seed: int) -> None:
    """Keys have one character, so at random each would soon be repeated."""
    result = reference.generate("Go", schema=NAMED, mode=mode, temperature=1.5, seed=seed, max_tokens=90)
    assert doubled_keys(result.text) == []
    assert not any("twice" in note for note in result.notes)


def test_keys_that_the_grammar_names_are_not_followed() -> None:
    closed = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    assert not may_repeat(closed)
    assert not may_repeat({"anyOf": [closed, {"type": ["string", "null"]}]})
    assert may_repeat({"$defs": {"x": {"type": "object"}}, "$ref": "#/$defs/x"})
    assert may_repeat({**closed, "patternProperties": {"^x": True}})
    assert may_repeat({})
