"""The memory of our own engine, in a process of its own: a checkpoint is loaded and one prompt decoded.

Knows that the process that measures holds other engines too, so that its own memory says nothing. Python and torch
count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_SECONDS: Final = 300


def resident_bytes(source: Path, prompt: Sequence[int], max_tokens: int, threads: int) -> int | None:
    """Most bytes that a process had in memory which loaded `source` and decoded one prompt; None where it failed."""
    words = [sys.executable, "-m", __name__, str(source), str(max_tokens), json.dumps(list(prompt))]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def main() -> None:
    from trimode.policy.calls import Engine

    from .peer_worker import resident

    source, max_tokens, prompt = sys.argv[1:]
    engine = Engine.load(source)
    engine.generate(prompt_ids=json.loads(prompt), max_tokens=int(max_tokens), mode="ar")
    print(resident())


if __name__ == "__main__":
    main()
