"""What the author of an agent writes: steps, sessions, budgets, tools.

Knows functions, docstrings and sessions. Does not know token ids, or how a mode is chosen. Start with `decorator.py`.
"""
