"""Rotary position embedding with YaRN, the Llama 3.1 scaling and the Llama-4 query scale.

Knows positions and angles only. Frequencies are fp32 whatever the model's dtype.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .rope_config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """Returns [head_dim / 2] fp32, on the CPU whatever the device of a model under construction.

    YaRN blends extrapolated and interpolated frequencies; a factor below 1 is not clamped.
    """
    powers = rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim)
    if rope.factors:
        return 1.0 / (powers * torch.tensor(rope.factors, dtype=torch.float32, device="cpu"))
    if rope.kind == "default":
        return 1.0 / powers
    if rope.kind == "llama3":
        return _llama3(rope, 1.0 / powers)
    low, high = (_correction_dim(rope, head_dim, beta) for beta in (rope.beta_fast, rope.beta_slow))
    low, high = max(math.floor(low), 0), min(math.ceil(high), head_dim - 1)
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32, device="cpu") - low) / max(high - low, 0.001)
    extrapolated = 1.0 - ramp.clamp(0, 1)
    return extrapolated / powers + (1.0 - extrapolated) / (rope.factor * powers)


def _llama3(rope: RopeConfig, frequencies: Tensor) -> Tensor:
    """Keeps frequencies with many turns in the original context, divides slow ones, blends between (Llama 3.1)."""
    turns = rope.original_max_position_embeddings * frequencies / (2 * math.pi)
    kept = ((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / rope.factor


def _correction_dim(rope: RopeConfig, head_dim: int, rotations: float) -> float:
    """Returns the dimension that turns `rotations` times over the original context."""
    wavelengths = rope.original_max_position_embeddings / (rotations * 2 * math.pi)
    return head_dim * math.log(wavelengths) / (2 * math.log(rope.theta))


def attention_factor(rope: RopeConfig) -> float:
    """Returns the factor on cos and sin; 1.0 if mscale equals mscale_all_dim, as in every released NLD config."""
    if rope.kind != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return _mscale(rope.factor, rope.mscale) / _mscale(rope.factor, rope.mscale_all_dim)
    return _mscale(rope.factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def cos_sin(frequencies: Tensor, positions: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Returns cos and sin, each [tokens, head_dim] fp32, for positions [tokens]."""
    angles = positions[:, None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos() * factor, angles.sin() * factor


def query_scale(rope: RopeConfig, positions: Tensor) -> Tensor | None:
    """Returns Llama-4 scaling [tokens] fp32: 1 + beta * ln(1 + floor(position / original context)); None if unused."""
    if not rope.llama_4_scaling_beta:
        return None
    steps = torch.floor(positions.float() / rope.original_max_position_embeddings)
    return 1.0 + rope.llama_4_scaling_beta * torch.log1p(steps)


class Angles:
    """Tables of cos, sin and query scale by position, computed CHUNK positions at a time; a pass looks them up."""

    CHUNK = 1024

    def __init__(self, rope: RopeConfig, frequencies: Tensor, factor: float, dtype: torch.dtype) -> None:
        self._rope, self._frequencies, self._factor, self._dtype = rope, frequencies, factor, dtype
        self._columns: list[Tensor] = []

    def at(self, positions: Tensor, end: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns cos and sin [T, head_dim], scale [T] or None, of positions [T], all of them below `end`."""
        self.reserve(end)
        # index_select shares work from 500 rows on; indexing would from 50, and its threads spin on beside a pass.
        cos, sin, *scale = (column.index_select(0, positions) for column in self._columns)
        return cos, sin, scale[0] if scale else None

    def reserve(self, end: int) -> None:
        """Computes what `at` needs up to `end`; tables stay at their addresses until a larger `end` is asked for."""
        if self._columns and len(self._columns[0]) >= end:
            return
        chunks = [self._chunk(start) for start in range(0, end, self.CHUNK)]
        self._columns = [torch.cat(parts) for parts in zip(*chunks, strict=True)]

    def _chunk(self, start: int) -> list[Tensor]:
        where = torch.arange(start, start + self.CHUNK, device=self._frequencies.device)
        cos, sin = (part.to(self._dtype) for part in cos_sin(self._frequencies, where, self._factor))
        scale = query_scale(self._rope, where)
        return [cos, sin] if scale is None else [cos, sin, scale]
