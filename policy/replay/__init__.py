"""Recorded calls asked again: decoded again, decoded under other policies, or priced without decoding.

Knows records and an engine. Does not know sessions or files. Start with `decode_again.py`.
"""
