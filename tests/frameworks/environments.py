"""Agent frameworks as people install them, each in an environment of its own, which `make test-integrations` makes.

Knows the programs beside this file, which run there by pytest, and the page that is written of what was found. A skip
that is not in SKIPS is an outcome of its own.
"""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

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
Versions = Literal["newest", "lowest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """A framework: its packages, the extras that install them, its example, and suites of its own.

    The program that tests it, and the files of its adapter, are named after it.
    """

    packages: tuple[str, ...]
    extras: tuple[str, ...]
    example: str
    suites: tuple[str, ...] = ()


FRAMEWORKS: Final = {
    "langchain": Framework(
        packages=("langchain-core", "langchain", "langgraph", "langchain-tests"),
        extras=("langchain", "langgraph"),
        example="04_langgraph.py",
        suites=("langchain_standard.py",),
    ),
    "pydantic-ai": Framework(packages=("pydantic-ai-slim",), extras=("pydantic-ai",), example="05_pydantic_ai.py"),
    "openai-agents": Framework(packages=("openai-agents",), extras=("openai-agents",), example="06_openai_agents.py"),
    "google-adk": Framework(packages=("google-adk",), extras=("google-adk",), example="07_google_adk.py"),
    "dspy": Framework(packages=("dspy",), extras=("dspy",), example="08_dspy.py"),
    "litellm": Framework(packages=("litellm",), extras=("litellm",), example="09_litellm.py"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One test: its name, what became of it, and the reason where it did not pass."""

    name: str
    outcome: str
    why: str = ""


def module_of(framework: str) -> str:
    """The framework's name as its files have it."""
    return framework.replace("-", "_")


def python_of(framework: str, versions: Versions) -> Path:
    """The Python of a framework's environment."""
    program = ENVIRONMENTS / versions / framework / "bin" / "python"
    assert program.exists(), f"{program} is missing: run `make test-integrations`, which makes it"
    return program


def run(framework: str, versions: Versions, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs Python in the framework's environment. No price list is fetched, and nothing is sent to vendors."""
    quiet = {"OPENAI_API_KEY": "", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "DSPY_CACHEDIR": str(ENVIRONMENTS / "cache")}
    environment = {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(PROGRAMS)])}
    command = [str(python_of(framework, versions)), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, **options)


def outcomes(framework: str, versions: Versions, program: str, folder: Path) -> list[Outcome]:
    """Runs one program by pytest, and returns what became of its tests."""
    report = folder / f"{program}.xml"
    options = ["-c", os.devnull, f"--rootdir={PROGRAMS}", f"--confcutdir={PROGRAMS}", "-p", "no:cacheprovider"]
    loops = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_test_loop_scope=session"]
    arguments = ["-m", "pytest", str(PROGRAMS / program), *options, *loops, f"--junitxml={report}"]
    done = run(framework, versions, *arguments)
    assert report.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    return [_outcome(case) for case in ElementTree.parse(report).iter("testcase")]


def own_outcomes(framework: str, versions: Versions, folder: Path) -> list[Outcome]:
    """What became of our tests of a framework."""
    return outcomes(framework, versions, f"in_{module_of(framework)}.py", folder)


def surprising(found: Sequence[Outcome]) -> list[Outcome]:
    """Those that neither passed, nor were expected to fail, nor are skipped for a reason that is declared."""
    others = [one for one in found if one.outcome not in ("passed", "expected to fail")]
    return [one for one in others if one.outcome != "skipped" or not one.why]


def versions_in(framework: str, versions: Versions) -> str:
    """The versions of a framework's packages in its environment."""
    code = "import importlib.metadata as m, sys; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
    return run(framework, versions, "-c", code, *FRAMEWORKS[framework].packages).stdout.strip()


def write_block(name: str, lines: Sequence[str]) -> None:
    """Writes a block of the page, between its comments."""
    before, rest = PAGE.read_text(encoding="utf-8").split(f"<!-- {name} -->\n")
    after = rest.split(f"<!-- end of {name} -->")[1]
    text = "\n".join(lines)
    PAGE.write_text(f"{before}<!-- {name} -->\n{text}\n<!-- end of {name} -->{after}", encoding="utf-8")


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
