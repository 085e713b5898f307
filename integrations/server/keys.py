"""API keys: a file of names and digests, which holds no key itself.

Knows digests. Does not know requests. A key is 256 random bits, so one round of SHA-256 is enough at rest: there is
nothing to guess from. A line of the file is `NAME SHA256`; lines that begin with `#` are comments.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trimode.engine.errors import TrimodeError

PREFIX: Final = "tm-"
"""Beginning of every key, by which scanners find one that leaked."""
_LINE: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64})[ \t]+(?P<digest>[0-9a-f]{64})")


class KeyFileRefused(TrimodeError):
    """A key file that cannot be read, or has other lines than names and digests."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Digests of keys by the name of who holds them. Without any, every request is served, to the tenant ""."""

    digests: Mapping[str, str]

    def tenant(self, key: str | None) -> str | None:
        """Returns the name of the key's holder, None for an unknown key.

        Compares with every digest, in constant time each, so that the time does not tell which one nearly fits.
        """
        if not self.digests:
            return ""
        digest, found = _digest(key or ""), None
        for name, known in self.digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def read_keys(path: Path | None) -> Keys:
    """Returns the keys of a file; none without a file. Raises KeyFileRefused, also for a file without keys."""
    if path is None:
        return Keys({})
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise KeyFileRefused(f"{path}: {error}; `trimode keys add NAME --file {path}` makes one") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parsed = _LINE.fullmatch(line.strip())
        if parsed is None or parsed["name"] in found:
            raise KeyFileRefused(f"{path}, line {number}: expected a new NAME and the SHA-256 of a key")
        found[parsed["name"]] = parsed["digest"]
    if not found:
        raise KeyFileRefused(f"{path} has no keys; `trimode keys add NAME --file {path}` makes one")
    return Keys(found)


def add_key(path: Path, name: str) -> str:
    """Appends the digest of a new key to a file that only its owner can read; returns the key, which is kept nowhere.

    Raises KeyFileRefused for a name that is taken, or has other characters than letters, digits, dot, - and _.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    line = f"{name} {_digest(key)}"
    if _LINE.fullmatch(line) is None:
        raise KeyFileRefused(f"{name!r}: expected at most 64 letters, digits, dots, dashes and underscores")
    if path.exists() and path.stat().st_size and name in read_keys(path).digests:
        raise KeyFileRefused(f"{path} has a key for {name!r} already; take its line out to replace it")
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    return key


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
