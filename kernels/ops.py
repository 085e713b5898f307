"""The one door to tensor functions: same names and signatures as `reference`, whatever runs behind them.

Today every device runs the torch reference; kernels of their own will be picked here, by device, and nowhere else.
"""

from __future__ import annotations

from .reference import KEY_TILE, ROW_TILE, attention, gumbel, linear, pick, rms_norm, rotate, silu_mul

__all__ = ["KEY_TILE", "ROW_TILE", "attention", "gumbel", "linear", "pick", "rms_norm", "rotate", "silu_mul"]
