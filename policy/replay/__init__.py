"""Recorded calls asked again: decoded again, decoded under other policies, or priced without decoding.

Knows records and an engine. Does not know sessions or files. Start with `decode_again.py`.
"""

from __future__ import annotations

from .decode_again import NO_CONTENT, Engines, nothing_to_replay, replay
from .held_out import Tuned, checked, tuned_and_checked
from .reasons import explained
from .replayed import Replay
from .servers import Servers
from .under_policies import replayed_under
from .what_if import Check, Checks, Row, compared, tuned

__all__ = [
    "NO_CONTENT", "Check", "Checks", "Engines", "Replay", "Row", "Servers", "Tuned", "checked", "compared", "explained",
    "nothing_to_replay", "replay", "replayed_under", "tuned", "tuned_and_checked",
]  # fmt: skip
