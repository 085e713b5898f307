"""Schemas as grammars: matchers at one point of a text, their token masks and completions.

Knows llguidance, token masks, and how an unfinished text is completed. Does not know who decodes, or why a schema was
asked for. Start with `compiler.py`, then `matcher.py`.
"""

from __future__ import annotations

from .compiler import COMPLETION_TOKENS, Compiled, GrammarCompiler, check
from .matcher import Matcher
from .relax import Dropped, Relaxed, relaxed, relaxed_turn
from .text_grammar import grammar_text
from .turn_matcher import Marker, TurnGrammar, TurnMatcher
from .walker import Walker

__all__ = [
    "COMPLETION_TOKENS", "Compiled", "Dropped", "GrammarCompiler", "Marker", "Matcher", "Relaxed", "TurnGrammar",
    "TurnMatcher", "Walker", "check", "grammar_text", "relaxed", "relaxed_turn",
]  # fmt: skip
