"""Versions of the packages that decoding depends on. Knows package metadata; imports none of the packages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """Returns the versions of the packages that decoding depends on, from package metadata, without importing them."""
    return {package: _version(package) for package in ("trimode", "torch", "tokenizers", "llguidance")}
