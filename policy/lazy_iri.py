"""Defers building the IRI parser of jsonschema to its first use, because that takes most of a second.

Knows the name by which jsonschema imports the parser, which only two formats need. Has no effect if jsonschema was
imported before.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Final

_PARSER: Final = "rfc3987_syntax"


def _is_valid_syntax(rule: str, text: str) -> bool:
    """Calls the real parser's function of this name, importing it on first use."""
    found: bool = import_module(_PARSER).is_valid_syntax(rule, text)
    return found


def _import_jsonschema() -> None:
    """Imports jsonschema with a stand-in for the parser."""
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
