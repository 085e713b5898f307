"""Agent frameworks as people install them, each in an environment of its own, which `make test-integrations` makes.

The programs beside this file run there, by pytest. What does not pass is declared in them with its reason; a skip that
is not in SKIPS fails here. The tables of docs/integrations.md are written by what was found.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(900)]
ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAMS: Final = Path(__file__).parent / "programs"
ENVIRONMENTS: Final = Path(os.environ.get("TRIMODE_FRAMEWORKS", ROOT / ".frameworks"))
PAGE: Final = ROOT / "docs" / "integrations.md"
_TEXT: Final = "the model reads text alone; other parts are refused by name"
SKIPS: Final = {
    "test_init_from_env": "no setting comes from the environment",
    "test_serdes": "an engine in memory cannot be serialized",
    "test_pdf_inputs": _TEXT,
    "test_audio_inputs": _TEXT,
    "test_image_inputs": _TEXT,
    "test_image_tool_message": _TEXT,
    "test_pdf_tool_message": _TEXT,
    "test_anthropic_inputs": _TEXT,
    "test_stream_time": "it replays recorded HTTP traffic, and there is none",
}
"""Skips of LangChain's own suites, by the beginning of the test's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """A framework: its packages, the programs that test it, its example, and suites of its own."""

    packages: tuple[str, ...]
    example: str
    program: str
    suites: tuple[str, ...] = ()


FRAMEWORKS: Final = {
    "langchain": Framework(
        packages=("langchain-core", "langchain", "langgraph", "langchain-tests"),
        example="04_langgraph.py",
        program="in_langchain.py",
        suites=("langchain_standard.py",),
    ),
    "pydantic-ai": Framework(packages=("pydantic-ai-slim",), example="05_pydantic_ai.py", program="in_pydantic_ai.py"),
    "openai-agents": Framework(
        packages=("openai-agents",), example="06_openai_agents.py", program="in_openai_agents.py"
    ),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One test: its name, what became of it, and the reason where it did not pass."""

    name: str
    outcome: str
    why: str = ""


FOUND: dict[str, list[Outcome]] = {}
SUITES: dict[str, list[Outcome]] = {}
VERSIONS: dict[str, str] = {}


def run(framework: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs Python in the framework's environment."""
    program = ENVIRONMENTS / framework / "bin" / "python"
    assert program.exists(), f"{program} is missing: run `make test-integrations`, which makes it"
    path = os.pathsep.join([str(ROOT / "src"), str(PROGRAMS)])
    environment = {**os.environ, "PYTHONPATH": path, "OPENAI_API_KEY": ""}
    return subprocess.run([str(program), *arguments], env=environment, capture_output=True, text=True, **options)


def outcomes(framework: str, program: str, folder: Path) -> list[Outcome]:
    """Runs one program by pytest, and returns what became of its tests."""
    report = folder / f"{program}.xml"
    options = ["-c", os.devnull, f"--rootdir={PROGRAMS}", f"--confcutdir={PROGRAMS}", "-p", "no:cacheprovider"]
    loops = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_test_loop_scope=session"]
    done = run(framework, "-m", "pytest", str(PROGRAMS / program), *options, *loops, f"--junitxml={report}")
    assert report.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    return [_outcome(case) for case in ElementTree.parse(report).iter("testcase")]


def _outcome(case: ElementTree.Element) -> Outcome:
    name = case.get("name", "")
    for tag in ("failure", "error", "skipped"):
        if (found := case.find(tag)) is not None:
            expected = found.get("type") == "pytest.xfail"
            why = (found.get("message") or "") if expected or tag != "skipped" else _declared(name)
            return Outcome(name, "expected to fail" if expected else tag, why)
    return Outcome(name, "passed")


def _declared(name: str) -> str:
    return next((why for begin, why in SKIPS.items() if name.startswith(begin)), "")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_in_the_framework(framework: str, tmp_path: Path) -> None:
    FOUND[framework] = outcomes(framework, FRAMEWORKS[framework].program, tmp_path)
    assert FOUND[framework]
    assert [one for one in FOUND[framework] if one.outcome != "passed"] == []


@pytest.mark.parametrize("framework", [name for name, one in FRAMEWORKS.items() if one.suites])
def test_suites_of_the_framework(framework: str, tmp_path: Path) -> None:
    for suite in FRAMEWORKS[framework].suites:
        SUITES[framework] = outcomes(framework, suite, tmp_path)
        assert SUITES[framework]
        surprising = [one for one in SUITES[framework] if one.outcome not in ("passed", "expected to fail")]
        assert [one for one in surprising if one.outcome != "skipped" or not one.why] == []


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_example_runs(framework: str, tmp_path: Path) -> None:
    done = run(framework, str(ROOT / "examples" / "frameworks" / FRAMEWORKS[framework].example), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 2
    assert (tmp_path / "audit.jsonl").exists()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_first_answer_of_the_page_runs(framework: str, tmp_path: Path) -> None:
    """The code below a framework's heading on the page, and what it prints."""
    part = PAGE.read_text(encoding="utf-8").split(f"<!-- {framework} -->\n")[1].split("\n## ")[0]
    code, shown = re.findall(r"```python\n(.*?)```.*?```\n(.*?)```", part, re.DOTALL)[0]
    done = run(framework, "-c", code, cwd=tmp_path)
    assert done.stdout == shown, done.stderr[-3000:]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_types_against_the_framework(framework: str, tmp_path: Path) -> None:
    """mypy, strict, with the framework's own types, which .venv does not have."""
    settings = tmp_path / "mypy.ini"
    untyped = "[mypy-llguidance.*,safetensors.*,transformers.*,triton.*]\nignore_missing_imports = true\n"
    settings.write_text(f"[mypy]\nstrict = true\nmypy_path = {ROOT / 'src'}\n{untyped}", encoding="utf-8")
    files = map(str, (ROOT / "src/trimode/integrations/frameworks").glob(f"{framework.replace('-', '_')}*.py"))
    options = ["--config-file", str(settings), "--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent"]
    python = str(ENVIRONMENTS / framework / "bin" / "python")
    command = [sys.executable, "-m", "mypy", *options, "--python-executable", python, *sorted(files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_versions(framework: str) -> None:
    code = "import importlib.metadata as m, sys; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
    VERSIONS[framework] = run(framework, "-c", code, *FRAMEWORKS[framework].packages).stdout.strip()
    assert VERSIONS[framework]


def test_the_tables_are_written() -> None:
    """Runs last: what was found above becomes the tables of the page."""
    rows = list(dict.fromkeys(one.name for found in FOUND.values() for one in found))
    lines = [f"| | {' | '.join(FOUND)} |", f"| --- |{' --- |' * len(FOUND)}"]
    lines.append(f"| versions | {' | '.join(VERSIONS[name] for name in FOUND)} |")
    for row in rows:
        cells = [next((one.outcome for one in found if one.name == row), "") for found in FOUND.values()]
        lines.append(f"| {row.removeprefix('test_').replace('_', ' ')} | {' | '.join(cells)} |")
    for framework, found in SUITES.items():
        counts = Counter(one.outcome for one in found)
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items(), key=lambda one: -one[1]))
        lines += ["", f"The standard tests of {framework}: {told}.", ""]
        missed = dict.fromkeys((one.name.split("[")[0], one.outcome, one.why) for one in found if one.why)
        lines += [f"- {name}, {outcome}: {why}." for name, outcome, why in missed]
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split("<!-- tables -->\n")
    after = rest.split("<!-- end of tables -->")[1]
    text = "\n".join(lines)
    PAGE.write_text(f"{before}<!-- tables -->\n{text}\n<!-- end of tables -->{after}", encoding="utf-8")
