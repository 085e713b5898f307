"""Schemas at one point of a text: grammars, matchers and their token masks.

Knows llguidance, masks, and how an unfinished text can be completed. Does not know who decodes, or why a schema was
asked for. Start with `compiler.py`, then `matcher.py`.
"""

from __future__ import annotations

from .compiler import ENDING_TOKENS, Compiled, GrammarCompiler, check
from .matcher import Matcher
from .relax import Relaxed, relaxed
from .walker import Walker

__all__ = ["ENDING_TOKENS", "Compiled", "GrammarCompiler", "Matcher", "Relaxed", "Walker", "check", "relaxed"]
