"""Requests and responses of every API: the edge, connections, streams of events.

Knows ASGI and Starlette. Does not know any API's documents. Start with `exchange.py`.
"""
