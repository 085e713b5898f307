"""The one door to tensor functions: same names and signatures as `reference`, whatever runs behind them.

Today every device runs the torch reference; kernels of their own will be picked here, by device, and nowhere else.
"""

from __future__ import annotations

from .reference import linear, rms_norm, rotate, silu_mul

__all__ = ["linear", "rms_norm", "rotate", "silu_mul"]
