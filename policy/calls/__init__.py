"""One call, from what the caller passed to a `Result`, recorded on the way.

Knows the token engine and the rooms below. Does not know decorators, budgets or tools, and of a session only its
scope. Start with `call.py`, then `engine.py`.
"""
