"""Clients that people have, against `trimode serve`: each in an environment of its own, which `make test-server` makes.

What does not pass has its reason in EXPECTED; anything else fails the test. The table of docs/server.md is written
here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]
ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAMS: Final = Path(__file__).parent / "programs"
CLIENTS: Final = Path(os.environ.get("TRIMODE_TEST_CLIENTS", ROOT / ".clients"))
PAGE: Final = ROOT / "docs" / "server.md"
MODEL: Final = "trimode-reference"
SUITES: Final = ("openai-chat", "open-responses", "anthropic")
_TEXT_ONLY: Final = "the model reads text alone; images are refused by name"
_UNTRAINED: Final = "the bundled reference model does not know how: 5.6 million parameters, trained on other tasks"
_BY_NAME: Final = "skipped: the suite asks models of certain names alone"
EXPECTED: Final[Mapping[tuple[str, str], str]] = {
    ("llm-comply", "openai-chat: chat-image-input"): _TEXT_ONLY,
    ("llm-comply", "openai-chat: chat-reasoning-summary"): _BY_NAME,
    ("llm-comply", "open-responses: image-input"): _TEXT_ONLY,
    ("llm-comply", "open-responses: streaming-response"): "the reference model counts on until its tokens run out",
    ("llm-comply", "open-responses: reasoning-summary"): _BY_NAME,
    ("llm-comply", "anthropic: anth-image-input"): _TEXT_ONLY,
    ("llm-comply", "anthropic: anth-thinking-display"): _BY_NAME,
    ("langchain", "test_json_mode"): _UNTRAINED,
    ("langchain", "test_agent_loop[model0]"): _UNTRAINED,
    ("langchain", "test_agent_loop[model1]"): _UNTRAINED,
    ("langchain", "test_unicode_tool_call_integration"): _UNTRAINED,
    ("langchain", "test_structured_output_pydantic_2_v1"): "its schema allows further keys, and this model writes some",
}
_SKIPPED: Final = "skipped"
"""Skips of LangChain's suite are declared by the properties of its test class, and have the suite's own reasons."""
Outcome = dict[str, str]


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    command = [sys.executable, "-m", "trimode", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = next(line for line in process.stderr if '"serving"' in line)
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        yield json.loads(found)["url"]
        process.terminate()
        process.wait(60)
        drain.wait(60)


def outcomes_of(command: list[str], **options: Any) -> list[Outcome]:
    """What a program printed of its checks, in its last line."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    lines = done.stdout.strip().splitlines()
    assert lines, done.stderr[-2000:]
    found: list[Outcome] = json.loads(lines[-1])
    return found


def python(client: str) -> str:
    return str(CLIENTS / client / "bin" / "python")


def by_program(client: str, program: str, url: str, *more: str) -> list[Outcome]:
    return outcomes_of([python(client), str(PROGRAMS / program), url, MODEL, *more])


def by_node(program: str, url: str) -> list[Outcome]:
    """Runs a program where its packages are: node looks for them beside the file."""
    folder = CLIENTS / "node"
    for file in PROGRAMS.glob("*.mjs"):
        (folder / file.name).write_text(file.read_text())
    return outcomes_of(["node", program, url, MODEL], cwd=folder)


def by_langchain(url: str, folder: Path) -> list[Outcome]:
    file, report = PROGRAMS / "langchain_standard.py", folder / "langchain.xml"
    options = ["-c", os.devnull, f"--rootdir={PROGRAMS}", f"--confcutdir={PROGRAMS}", f"--junitxml={report}"]
    loops = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_test_loop_scope=session", "-p", "no:cacheprovider"]
    environment = {**os.environ, "SERVED_URL": url, "SERVED_MODEL": MODEL}
    command = [python("langchain"), "-m", "pytest", str(file), *options, *loops]
    subprocess.run(command, env=environment, capture_output=True)
    return [_case(case) for case in ElementTree.parse(report).iter("testcase")]


def _case(case: ElementTree.Element) -> Outcome:
    found = {"check": case.get("name", ""), "outcome": "passed", "why": ""}
    for tag, outcome in (("failure", "failed"), ("error", "failed"), ("skipped", _SKIPPED)):
        if (told := case.find(tag)) is not None:
            found |= {"outcome": outcome, "why": told.get("message", "")}
    return found


def by_schemathesis(url: str, folder: Path) -> list[Outcome]:
    """One check for the whole run: no response of status 500, none against the description, on any operation."""
    command = [str(CLIENTS / "schemathesis" / "bin" / "st"), "run", f"{url}/openapi.json", "--max-examples", "60"]
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    options = ["--checks", checks, "--phases", "examples,fuzzing", "--seed", "1", "--request-timeout", "60"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=folder)
    told = re.sub(r"\s+", " ", done.stdout)[-1500:]
    outcome = "passed" if done.returncode == 0 else "failed"
    return [{"check": "description and fuzzing", "outcome": outcome, "why": told}]


TABLE: dict[str, list[Outcome]] = {}


@pytest.mark.parametrize("client", ["openai", "llm-comply", "litellm", "instructor", "langchain", "schemathesis",
                                    "openai (node)", "AI SDK (node)"])  # fmt: skip
def test_client(client: str, url: str, tmp_path: Path) -> None:
    runs = {
        "openai": lambda: by_program("openai", "openai_python.py", url),
        "llm-comply": lambda: by_program("openai", "llm_comply_suites.py", url, *SUITES),
        "litellm": lambda: by_program("litellm", "litellm_python.py", url),
        "instructor": lambda: by_program("instructor", "instructor_python.py", url),
        "langchain": lambda: by_langchain(url, tmp_path),
        "schemathesis": lambda: by_schemathesis(url, tmp_path),
        "openai (node)": lambda: by_node("openai_node.mjs", url),
        "AI SDK (node)": lambda: by_node("ai_sdk.mjs", url),
    }
    TABLE[client] = runs[client]()
    surprising = [
        one
        for one in TABLE[client]
        if one["outcome"] != "passed"
        and (client, one["check"]) not in EXPECTED
        and (client, one["outcome"]) != ("langchain", _SKIPPED)
    ]
    assert TABLE[client]
    assert not surprising


def test_the_agent_in_javascript(url: str) -> None:
    command = ["node", str(ROOT / "examples" / "agent.mjs"), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "tool_call by linear_spec" in done.stderr
    assert done.stdout.strip()


def test_the_table_is_written() -> None:
    """Runs last: what the clients' runs above gave becomes the table, and each failure a line below it."""
    lines = ["| client | passed | failed | skipped |", "| --- | --- | --- | --- |"]
    for client, outcomes in TABLE.items():
        counts = Counter(one["outcome"] for one in outcomes)
        lines.append(f"| {client} | {counts['passed']} | {counts['failed']} | {counts[_SKIPPED]} |")
    lines += ["", "What did not pass:", ""]
    lines += [f"- {client}, {check}: {why}." for (client, check), why in EXPECTED.items() if client in TABLE]
    whys = [one["why"] for one in TABLE.get("langchain", ()) if one["outcome"] == _SKIPPED]
    if skipped := [why.split(": ", 1)[-1].rstrip(".") for why in whys]:
        lines.append(f"- langchain, skipped by its suite: {'; '.join(dict.fromkeys(skipped))}.")
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split("<!-- clients -->\n")
    after = rest.split("<!-- end of clients -->")[1]
    written = "\n".join(lines)
    PAGE.write_text(f"{before}<!-- clients -->\n{written}\n<!-- end of clients -->{after}", encoding="utf-8")
