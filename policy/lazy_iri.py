"""Defers the IRI parser of jsonschema to its first use: building it takes most of a second, and two formats need it.

Knows the name by which jsonschema imports the parser. Takes effect only if jsonschema was not imported before.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Final

_PARSER: Final = "rfc3987_syntax"


def _is_valid_syntax(rule: str, text: str) -> bool:
    found: bool = import_module(_PARSER).is_valid_syntax(rule, text)
    return found


def _import_jsonschema() -> None:
    if "jsonschema" in sys.modules or _PARSER in sys.modules:
        return
    stand_in = ModuleType(_PARSER)
    stand_in.__dict__["is_valid_syntax"] = _is_valid_syntax
    sys.modules[_PARSER] = stand_in
    try:
        import_module("jsonschema")
    finally:
        del sys.modules[_PARSER]


_import_jsonschema()
