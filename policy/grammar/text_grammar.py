"""Plain-text targets as llguidance reads them, and its refusals in our words."""

from __future__ import annotations

import json

from llguidance import LLMatcher, regex_to_lark

from ..errors import MalformedGrammar, SchemaRefused, SchemaTooComplex, UnsupportedSyntax
from ..json_schema import narrowed, samples
from ..schema import Choice, Lark, Regex, TextTarget


def grammar_text(target: TextTarget) -> str:
    """The grammar of a target. Nothing is checked here: the matcher does, and `refused` reads what it says."""
    match target:
        case Regex(pattern):
            regex = regex_to_lark(narrowed(pattern), "").replace("\n", "\\n")
            return LLMatcher.grammar_from_lark(f"start: /{regex or '(?:)'}/")
        case Choice():
            options = (json.dumps(option, ensure_ascii=False) for option in target.options)
            return LLMatcher.grammar_from_lark(f"start: {' | '.join(options)}")
        case Lark(grammar):
            return LLMatcher.grammar_from_lark(grammar)
        case _:
            raise TypeError(f"no grammar for {type(target).__name__}")


def wholes_of(target: TextTarget) -> tuple[str, ...]:
    """Texts that a target may well take, the shortest first; none for grammars."""
    match target:
        case Regex(pattern):
            return tuple(sorted(samples(pattern), key=len))
        case Choice():
            return tuple(sorted(target.options, key=len))
        case _:
            return ()


def refused(target: TextTarget, message: str) -> SchemaRefused:
    """llguidance's refusal of a target as an error that says what to do."""
    lines = [line for line in message.splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("error:")), lines[0] if lines else "refused")
    said = said.removeprefix("error: ")[:200]
    for words, what in _NOT_HELD.items():
        if words in message:
            return UnsupportedSyntax(target.kind, what, f"{said}; say it another way")
    if any(word in message for word in ("too large", "too complex", "too many", "too big", "limit", "fuel")):
        return SchemaTooComplex("", target.kind, said)
    return MalformedGrammar(target.kind, said)


_NOT_HELD = {
    "look-around": "look-around",
    "lookarounds": "look-around",
    "backreferences": "back reference",
    "not supported": "construct",
}
