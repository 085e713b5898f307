"""The extras of agent frameworks allow the versions that `make test-integrations` tests, and their later patches."""

from __future__ import annotations

import re
import tomllib

import pytest
from environments import FRAMEWORKS, ROOT
from packaging.requirements import Requirement
from packaging.version import Version

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def pinned(which: str, framework: str) -> dict[str, Version]:
    """The versions of a framework's packages in the Makefile."""
    (line,) = re.findall(rf"^{which}_{framework} := (.*)$", MAKEFILE, re.MULTILINE)
    return {name: Version(version) for name, version in (one.split("==") for one in line.split())}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_bounds_of_extras_are_what_is_tested(framework: str) -> None:
    lowest, newest = pinned("LOWEST", framework), pinned("NEWEST", framework)
    required = [Requirement(one) for extra in FRAMEWORKS[framework].extras for one in EXTRAS[extra]]
    own = [one for one in required if one.name != "trimode"]
    assert own
    for one in own:
        top = newest[one.name]
        assert str(one.specifier) == f"<{top.major}.{top.minor + 1},>={lowest[one.name]}"


def test_every_framework_has_its_environments() -> None:
    (line,) = re.findall(r"^FRAMEWORKS := (.*)$", MAKEFILE, re.MULTILINE)
    assert line.split() == [*FRAMEWORKS]
