"""Tools of a large server: calls that prefer troublesome tokens fit each tool's own schema."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, Final

import jsonschema
import numpy as np
import pytest
from loaded import allowed

from trimode.engine.constraint import Constraint
from trimode.engine.decoding.token_budget import TokenBudget
from trimode.policy.calls.engine import Engine
from trimode.policy.grammar.matcher import Matcher
from trimode.policy.schema import schema_of

D7: Final = "http://json-schema.org/draft-07/schema#"
BUDGET: Final = 112
"""Tokens of a call; the shortest call of some tools needs about 60."""
KINDS: Final[list[dict[str, Any]]] = [
    {"type": "string", "description": "An owner."}, {"type": "string", "enum": ["open", "closed", "all"]},
    {"type": "integer", "minimum": 1, "maximum": 100},
    {"type": "array", "items": {"type": "string"}, "maxItems": 9},
    {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}, {"type": "boolean", "default": False},
    {"type": "object", "properties": {"path": {"type": "string", "minLength": 1}}, "required": ["path"],
     "additionalProperties": False},
    {"type": "string", "format": "url"}, {"type": "number", "exclusiveMinimum": 0},
    {"type": "array", "items": [{"type": "integer"}, {"type": "integer"}], "minItems": 2, "maxItems": 2},
    {"type": "string", "pattern": '^[^"\\\\]+$'}, {"enum": ['a"b', "\\", {"$ref": "#/c"}]},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, {"type": "object"},
    {"type": "object", "patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": {"type": "null"}},
]  # fmt: skip


def server(count: int = 117) -> list[dict[str, Any]]:
    """Tools as a large MCP server lists them, with schemas in draft-07; every third allows other names."""
    made = list[dict[str, Any]]()
    for at in range(count):
        draw = random.Random(at)
        named = {f"{word}_{at % 7}": draw.choice(KINDS) for word in ("owner", "state", "page", 'q"', "body")}
        schema: dict[str, Any] = {
            "$schema": D7,
            "type": "object",
            "properties": named,
            "required": draw.sample(list(named), 2),
        }
        schema |= {} if at % 3 == 0 else {"additionalProperties": False}
        made.append({"name": f"tool_{at}", "description": f"Does {at}.", "inputSchema": schema})
    return made


def count_of(letters: str) -> Callable[[str], float]:
    return lambda text: sum(text.count(character) for character in letters)


TROUBLE: Final[dict[str, Callable[[str], float]]] = {
    "quotes": count_of('"'),
    "backslashes": count_of("\\"),
    "early ends": count_of("}]"),
    "digits": lambda text: sum(character.isdigit() for character in text) + 0.5 * ("." in text),
    "exponents": count_of("eE+-."),
    "other keys": count_of(",:"),
    "pieces of letters": lambda text: text.count("\ufffd") + 0.5 * (not text.isascii()),
    "control characters": lambda text: (
        sum(character < " " or character == "\x7f" for character in text) + 0.5 * ("u" in text)
    ),
    "length": len,
}
"""How much a script prefers a token's text."""


def called(engine: Engine, start: Matcher, opening: str, wants: Callable[[str], float]) -> str:
    """A call that begins with `opening` and then takes the allowed token that `wants` rates highest.

    Tokens taken before are rated lower, and the token budget closes the text, as in a decode.
    """
    texts = start.raw.vocabulary.texts
    worth = np.array([float(wants(text)) for text in texts])
    ends, ids, written = set(engine.tokens.model.config.eos_token_ids), list[int](), ""
    at: Constraint = start.fork()
    budget = TokenBudget(BUDGET, start.completion(BUDGET))
    while not ids or ids[-1] not in ends:
        choices = np.array(allowed(at))
        if len(written) < len(opening):
            fits = [opening[len(written) :].startswith(texts[token]) for token in choices]
            choices = choices[fits] if any(fits) else choices
            choice = int(max(choices, key=lambda token: len(texts[token])))
        else:
            choice = int(choices[worth[choices].argmax()])
        worth[choice] -= 0.7
        ids.append(choice if choice in ends else budget.resolve(at, choice))
        if ids[-1] not in ends:
            at = budget.advance(at, ids[-1:])
            written = engine.tokenizer.decode(ids)
    assert len(ids) <= BUDGET
    return engine.tokenizer.decode(ids[:-1])


@pytest.mark.parametrize("trouble", TROUBLE)
def test_calls_driven_towards_trouble_fit_each_tools_own_schema(reference: Engine, trouble: str) -> None:
    tools, start = server(), reference.grammars.matcher(schema_of(server()))
    for at in range(list(TROUBLE).index(trouble) % 3, len(tools), 3):
        name, own = tools[at]["name"], jsonschema.Draft7Validator(tools[at]["inputSchema"])
        text = called(reference, start, f'{{"name":"{name}","arguments":{{', TROUBLE[trouble])
        call = json.loads(text)
        assert (list(call), call["name"]) == (["name", "arguments"], name)
        own.validate(call["arguments"])
