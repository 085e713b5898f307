"""The lowest versions of agent frameworks that our extras allow: our tests, and the frameworks' own suites.

The table of lowest versions in docs/integrations.md is written by what was found.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from environments import FRAMEWORKS, Outcome, outcomes, own_outcomes, surprising, versions_in, write_block

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(900)]
FOUND: dict[str, list[Outcome]] = {}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_in_the_framework(framework: str, tmp_path: Path) -> None:
    FOUND[framework] = own_outcomes(framework, "lowest", tmp_path)
    for suite in FRAMEWORKS[framework].suites:
        FOUND[framework] += outcomes(framework, "lowest", suite, tmp_path)
    assert FOUND[framework]
    assert surprising(FOUND[framework]) == []


def test_the_table_is_written() -> None:
    """Runs last: what was found above becomes the table of the page."""
    assert FOUND.keys() == FRAMEWORKS.keys(), "the table is written by a run of all frameworks"
    lines = ["| framework | lowest versions | tests that pass |", "| --- | --- | --- |"]
    for framework, found in FOUND.items():
        passed = sum(one.outcome == "passed" for one in found)
        lines.append(f"| {framework} | {versions_in(framework, 'lowest')} | {passed} of {len(found)} |")
    write_block("lowest", lines)
