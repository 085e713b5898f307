"""Logs as one JSON object a line on standard error.

Knows logging. Does not know what is logged. No prompt, output or key is ever logged; messages of errors may quote
parameters.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error")
_QUIET: Final = ("uvicorn.access",)
"""Loggers that say what ours says already."""


class JsonLines(logging.Formatter):
    """Formats a record as {"time", "level", "logger", "message", ...}, with the `fields` that it was given."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": round(record.created, 3), "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(), **getattr(record, "fields", {}),
        }  # fmt: skip
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_as_json(level: str) -> None:
    """Sends the logs of trimode and uvicorn to standard error, from `level` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("trimode", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).disabled = True
