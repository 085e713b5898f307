"""How many threads an op may use, also in a process that was forked.

Knows torch's setting. torch's own threads (OpenMP's) do not survive a fork, and asking them for anything waits for
ever; the native kernels make theirs anew (`native/thread_pool.h`).
"""

from __future__ import annotations

import os

import torch

_before_fork = 0
"""Threads that torch used when this process was forked; 0 in a process that was not, or has not used an engine."""
_forked = False


def count() -> int:
    """Threads for native kernels: torch's number, or in a forked process the number from before the fork."""
    now = torch.get_num_threads()
    return _before_fork if now == 1 and _before_fork else now


def begin_in_child() -> bool:
    """To be called before a forked process computes: torch is left with one thread. Whether there was such a fork."""
    global _before_fork, _forked
    if not _forked:
        return False
    _before_fork, _forked = torch.get_num_threads(), False
    torch.set_num_threads(1)
    return True


def _note_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_note_fork)
