"""Cached keys and values: pages with counted references, and the prefix tree over them.

Knows page numbers. Does not know requests. Start with `pages.py`.
"""
