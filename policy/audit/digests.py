"""Digests of token sequences, by which a record identifies a prompt and an output without containing them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final


def sequence_digests(prompt: Sequence[int], parts: Iterable[Sequence[int]]) -> list[str]:
    """Returns the sha256 of the prompt, then of prompt and parts up to the end of each part, in hexadecimal. An id is 8
    bytes, signed, little-endian."""
    state = sha256(_bytes(prompt))
    digests = [state.hexdigest()]
    for part in parts:
        state.update(_bytes(part))
        digests.append(state.hexdigest())
    return digests


def _bytes(ids: Sequence[int]) -> bytes:
    return _ONE(*ids) if len(ids) == 1 else struct.pack(f"<{len(ids)}q", *ids)


_ONE: Final = struct.Struct("<q").pack
