"""Which replica served a call, where several processes serve one model.

Knows plain values. Does not know how a replica is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedBy:
    """The replica that decoded a call, where several serve one model. `request` and `choice`: of the call that was
    accepted; `attempt`: from 1, more than one where an earlier replica was lost; `why`: the reason of the router."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    request: str
    choice: int
    attempt: int
    replica: str
    why: str
