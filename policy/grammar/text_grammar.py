"""Grammars of plain-text targets, and llguidance's refusals of them as errors.

Knows the targets and llguidance's grammar syntax. Does not know matchers or masks.
"""

from __future__ import annotations

import json

from llguidance import LLMatcher, regex_to_lark

from ..errors import MalformedGrammar, SchemaRefused, SchemaTooComplex, UnsupportedSyntax
from ..json_schema import narrowed, samples
from ..schema import Choice, Lark, Regex, TextTarget


def grammar_text(target: TextTarget) -> str:
    """The grammar of a target, unchecked: llguidance checks it, and `refused` reads the message."""
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


def complete_texts_of(target: TextTarget) -> tuple[str, ...]:
    """Complete texts that probably fit a target, the shortest first; none for grammars."""
    match target:
        case Regex(pattern):
            return tuple(sorted(samples(pattern), key=len))
        case Choice():
            return tuple(sorted(target.options, key=len))
        case _:
            return ()


def refused(target: TextTarget, message: str) -> SchemaRefused:
    """llguidance's refusal of a target as an error with a hint."""
    lines = [line for line in message.splitlines() if line.strip()]
    reason = next((line for line in lines if line.startswith("error:")), lines[0] if lines else "refused")
    reason = reason.removeprefix("error: ")[:200]
    for phrase, construct in _UNSUPPORTED.items():
        if phrase in message:
            return UnsupportedSyntax(target.kind, construct, f"{reason}; write it another way")
    if any(phrase in message for phrase in ("too large", "too complex", "too many", "too big", "limit", "fuel")):
        return SchemaTooComplex("", target.kind, reason)
    return MalformedGrammar(target.kind, reason)


_UNSUPPORTED = {
    "look-around": "look-around",
    "lookarounds": "look-around",
    "backreferences": "back reference",
    "not supported": "construct",
}
"""Phrases in llguidance's messages, and the unsupported construct that each names."""
