"""Measuring on recorded episodes: benchmark, evaluation, roofline, and peers for comparison.

Knows episodes, engines and tables. Does not know the command line. Start with `benchmark.py`.
"""
