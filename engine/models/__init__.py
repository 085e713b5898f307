"""Checkpoints: config, modules, tokenizer, weights, and writing them for other engines.

Knows files and tensor names. Does not know decoding. Start with `families.py`.
"""
