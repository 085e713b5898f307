"""Answers beside recorded ones, and what is counted of them, with its sampling error. Start with `measures.py`.

Knows answers, readings and numbers. Does not know engines or what is decided.
"""
