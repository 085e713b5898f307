"""Requests as they arrive: bodies, headers, and the models that check them.

Knows JSON, header names and the APIs' parameters. Does not know the engine. Start with `base.py`.
"""
