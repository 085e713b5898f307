"""The endpoints, one API a file: asks made of its requests, its documents made of events.

Knows the APIs' documents. Does not know how asks are run. Start with `chat.py`.
"""
