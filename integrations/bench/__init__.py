"""Measuring on recorded episodes: benchmark, evaluation, roofline, and the peers beside us.

Knows episodes, engines and tables. Does not know the command line. Start with `benchmark.py`.
"""
