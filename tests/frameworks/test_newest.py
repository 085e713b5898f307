"""The newest versions of agent frameworks: our tests, their own suites, examples, the page's code, and types.

The tables of docs/integrations.md are written by what was found.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from environments import (
    FRAMEWORKS,
    PAGE,
    ROOT,
    Outcome,
    module_of,
    outcomes,
    own_outcomes,
    python_of,
    run,
    surprising,
    versions_in,
    write_block,
)

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(900)]
FOUND: dict[str, list[Outcome]] = {}
SUITES: dict[str, list[Outcome]] = {}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_in_the_framework(framework: str, tmp_path: Path) -> None:
    FOUND[framework] = own_outcomes(framework, "newest", tmp_path)
    assert FOUND[framework]
    assert [one for one in FOUND[framework] if one.outcome != "passed"] == []


@pytest.mark.parametrize("framework", [name for name, one in FRAMEWORKS.items() if one.suites])
def test_suites_of_the_framework(framework: str, tmp_path: Path) -> None:
    for suite in FRAMEWORKS[framework].suites:
        SUITES[framework] = outcomes(framework, "newest", suite, tmp_path)
        assert SUITES[framework]
        assert surprising(SUITES[framework]) == []


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_example_runs(framework: str, tmp_path: Path) -> None:
    example = ROOT / "examples" / "frameworks" / FRAMEWORKS[framework].example
    done = run(framework, "newest", str(example), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) >= 2
    assert (tmp_path / "audit.jsonl").exists()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_first_answer_of_the_page_runs(framework: str, tmp_path: Path) -> None:
    """The code below a framework's heading on the page, and what it prints."""
    part = PAGE.read_text(encoding="utf-8").split(f"<!-- {framework} -->\n")[1].split("\n## ")[0]
    code, shown = re.findall(r"```python\n(.*?)```.*?```\n(.*?)```", part, re.DOTALL)[0]
    done = run(framework, "newest", "-c", code, cwd=tmp_path)
    assert done.stdout == shown, done.stderr[-3000:]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_types_against_the_framework(framework: str, tmp_path: Path) -> None:
    """mypy, strict, with the framework's own types, which .venv does not have. dspy publishes none."""
    settings = tmp_path / "mypy.ini"
    untyped = "[mypy-dspy.*,llguidance.*,safetensors.*,transformers.*,triton.*]\nignore_missing_imports = true\n"
    settings.write_text(f"[mypy]\nstrict = true\nmypy_path = {ROOT / 'src'}\n{untyped}", encoding="utf-8")
    files = map(str, (ROOT / "src/trimode/integrations/frameworks").glob(f"{module_of(framework)}*.py"))
    options = ["--config-file", str(settings), "--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent"]
    python = ["--python-executable", str(python_of(framework, "newest"))]
    command = [sys.executable, "-m", "mypy", *options, *python, *sorted(files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tables_are_written() -> None:
    """Runs last: what was found above becomes the tables of the page."""
    assert FOUND.keys() == FRAMEWORKS.keys(), "the tables are written by a run of all frameworks"
    rows = list(dict.fromkeys(one.name for found in FOUND.values() for one in found))
    lines = [f"| | {' | '.join(FOUND)} |", f"| --- |{' --- |' * len(FOUND)}"]
    lines.append(f"| versions | {' | '.join(versions_in(name, 'newest') for name in FOUND)} |")
    for row in rows:
        cells = [next((one.outcome for one in found if one.name == row), "") for found in FOUND.values()]
        lines.append(f"| {row.removeprefix('test_').replace('_', ' ')} | {' | '.join(cells)} |")
    for framework, found in SUITES.items():
        counts = Counter(one.outcome for one in found)
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items(), key=lambda one: -one[1]))
        lines += ["", f"The standard tests of {framework}: {told}.", ""]
        missed = dict.fromkeys((one.name.split("[")[0], one.outcome, one.why) for one in found if one.why)
        lines += [f"- {name}, {outcome}: {why}." for name, outcome, why in missed]
    write_block("tables", lines)
