"""Runs the functions `check_...` of a program and prints what became of them as JSON. Standard library only, because
every client's environment runs it."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

URL, MODEL = sys.argv[1], sys.argv[2]
ASK = [{"role": "user", "content": "There are 5 boxes with 20 apples in each box. How many apples are there?"}]


def run(found: Mapping[str, Any]) -> None:
    """Runs every check among a program's names."""
    checks = {name: one for name, one in found.items() if name.startswith("check_")}
    print(json.dumps([_outcome(name, one) for name, one in checks.items()]))


def _outcome(name: str, check: Callable[[], Any]) -> dict[str, str]:
    title = name.removeprefix("check_").replace("_", " ")
    try:
        asyncio.run(check()) if inspect.iscoroutinefunction(check) else check()
    except Exception as error:
        return {"check": title, "outcome": "failed", "why": f"{type(error).__name__}: {error}"[:500]}
    return {"check": title, "outcome": "passed", "why": ""}
