"""Our tests in three frameworks, in their newest versions: what `.ci/run` has time for. Nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from environments import own_outcomes

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(900)]


@pytest.mark.parametrize("framework", ["langchain", "pydantic-ai", "openai-agents"])
def test_in_the_framework(framework: str, tmp_path: Path) -> None:
    found = own_outcomes(framework, "newest", tmp_path)
    assert found
    assert [one for one in found if one.outcome != "passed"] == []
