"""What callers ask for and what happens to it, in the words of no API: from an `Ask` to its events.

Knows one engine, its policies, and tenants. Does not know HTTP. Start with `ask.py`, then `events.py` and `runner.py`.
"""
