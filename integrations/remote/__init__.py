"""Servers elsewhere: HTTP, the APIs of several servers, and the pools of an engine.

Knows HTTP and APIs. Does not know steps or sessions. Start with `connect.py`, then `pools.py`.
"""
