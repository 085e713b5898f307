"""Schemas at one point of a text: grammars, matchers and their token masks.

Knows llguidance, masks, and how an unfinished text can be completed. Does not know who decodes, or why a schema was
asked for. Start with `compiler.py`, then `matcher.py`.
"""
