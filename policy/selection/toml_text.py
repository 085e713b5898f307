"""TOML as text and as files: the line of a key, tables as TOML, the tables of a file.

Knows TOML. Does not know what the keys mean. A key's line is found by parsing ever longer prefixes of the text, because
`tomllib` does not report lines, and a second parser might disagree with it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import PolicyError


def line_of(text: str, keys: Sequence[str]) -> int | None:
    """Returns the line, from 1, where the path `keys` first exists in a valid TOML text; None where it does not."""
    lines = [f"{line}\n" for line in text.split("\n")]  # `splitlines` breaks at U+2028, which is no line end in TOML
    complete = 0  # lines of the longest prefix so far that is valid TOML and lacks the key
    for count in range(1, len(lines) + 1):
        try:
            table = tomllib.loads("".join(lines[:count]))
        except tomllib.TOMLDecodeError:  # the text ends inside a value
            continue
        if _contains(table, keys):
            return complete + 1
        complete = count
    return None


def as_toml(tables: Mapping[str, Any], above: tuple[str, ...] = ()) -> str:
    """Writes nested mappings of strings, numbers, booleans and lists of them as TOML; mappings become tables."""
    plain = [f"{_text(key)} = {_value(value)}" for key, value in tables.items() if not isinstance(value, Mapping)]
    inner = {key: value for key, value in tables.items() if isinstance(value, Mapping)}
    head = [f"[{'.'.join(map(_text, above))}]"] if above and (plain or not inner) else []
    parts = ["\n".join([*head, *plain]) + "\n"] if head or plain else []
    return "\n".join([*parts, *(as_toml(value, (*above, key)) for key, value in inner.items())])


def _contains(table: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(table, Mapping) or key not in table:
            return False
        table = table[key]
    return True


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value, bare=False)
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)


def _text(value: str, bare: bool = True) -> str:
    """Writes a key, bare where that is allowed, or a string, by JSON's escapes: TOML's are the same, plus DEL."""
    if bare and value.isascii() and value.replace("-", "_").isidentifier():
        return value
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file. Raises PolicyError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyError(f"cannot read policy {path}: {error.strerror}") from None
    except ValueError as error:  # invalid TOML (the message has the line) or invalid UTF-8
        raise PolicyError(f"{path}: {error}") from None


def tool_table(project: Path) -> Mapping[str, Any] | None:
    """Returns [tool.trimode] of a pyproject.toml, or None where it has no such table."""
    tool = expect_table(read_toml(project).get("tool", {}), f"{project} [tool]")
    return expect_table(tool["trimode"], f"{project} [tool.trimode]") if "trimode" in tool else None


def expect_table(value: Any, origin: str, where: Sequence[str] = ()) -> Mapping[str, Any]:
    """Returns `value`. Raises PolicyError where it is no table."""
    if not isinstance(value, Mapping):
        raise PolicyError(f"{origin}: expected a table, found {value!r}", where)
    return value


def shown_path(path: Path) -> str:
    """Returns the path as reasons show it: relative in the working directory, because records keep it."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the directory was removed
        return str(path)
    return str(path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path)
