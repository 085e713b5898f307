"""The page on PyPI: README.md with links that lead somewhere outside of the repository.

Everything else of the package's metadata is in pyproject.toml. Where `[project.urls]` names a `Repository` (whose pages
have GitHub's addresses), relative links become absolute ones to the tag of this version. Where it names none, there is
nothing to link to: a link becomes its text and the file's name, and a paragraph that begins with a picture is left out.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>(?!https?://|#)[^)\s]+)\)")
_PICTURED = re.compile(r"^!\[(?:.+\n)+\n?", re.MULTILINE)
_NOWHERE = "\n\nFiles named here are in the source archive: `pip download --no-deps --no-binary trimode trimode`.\n"


def page(readme: str, repository: str | None, version: str) -> str:
    """The README as PyPI shows it; code blocks stay as they are."""
    parts = _FENCE.split(readme if repository else _PICTURED.sub("", readme))
    parts[::2] = [_LINK.sub(lambda link: _led(link, repository, version), part) for part in parts[::2]]
    return "".join(parts) if repository else "".join(parts).rstrip() + _NOWHERE


def _led(link: re.Match[str], repository: str | None, version: str) -> str:
    picture, text, target = link["picture"], link["text"], link["target"]
    if repository:
        return f"{picture}[{text}]({repository.rstrip('/')}/{'raw' if picture else 'blob'}/v{version}/{target})"
    file = target.partition("#")[0]
    return f"`{file}`" if text.strip("`") == file else f"{text} (`{file}`)"


def _version() -> str:
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "src/trimode/__init__.py").read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit("src/trimode/__init__.py has no line __version__ = ...")
    return found[1]


if __name__ == "__main__":
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"].get("urls", {})
    setup(
        long_description=page((ROOT / "README.md").read_text("utf-8"), urls.get("Repository"), _version()),
        long_description_content_type="text/markdown",
    )
