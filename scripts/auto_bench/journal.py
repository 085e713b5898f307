"""Rows of a measurement, a line each as they are made, so that it can stop anywhere and go on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """`rows`: what was made so far. The first line says what is measured; a journal of something else is refused."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # the last one may have been cut
        whole = [json.loads(line) for line in lines]
        if whole and whole[0] != about:
            raise SystemExit(f"{path} holds another measurement; remove it, or give another --state")
        self.rows: list[dict[str, Any]] = whole[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in [about, *self.rows]))

    def append(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
