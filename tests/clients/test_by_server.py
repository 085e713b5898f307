"""Frameworks that reach trimode by `trimode serve`: the example of each, in an environment of its own.

`make test-by-server` makes the environments. The examples name their step and its mode, which the server's audit file
has to show; the table of docs/integrations.md is written here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from trimode.policy.audit import CallRecord, read_audit, records, verify

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]
ROOT: Final = Path(__file__).resolve().parents[2]
ENVIRONMENTS: Final = Path(os.environ.get("TRIMODE_TEST_CLIENTS", ROOT / ".clients"))
PAGE: Final = ROOT / "docs" / "integrations.md"
PACKAGES: Final = {
    "smolagents": "smolagents",
    "strands": "strands-agents",
    "llama-index": "llama-index-core",
    "haystack": "haystack-ai",
    "crewai": "crewai",
    "agno": "agno",
}
QUIET: Final = {"CREWAI_DISABLE_TELEMETRY": "true", "HAYSTACK_TELEMETRY_ENABLED": "False", "AGNO_TELEMETRY": "false"}
"""Frameworks that send their own statistics elsewhere are told not to."""
ROWS: dict[str, str] = {}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[str, Path]]:
    """The URL of a server, and its audit file."""
    audit = tmp_path_factory.mktemp("served") / "audit.jsonl"
    command = [sys.executable, "-m", "trimode", "serve", "--port", "0", "--audit", str(audit)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = next(line for line in process.stderr if '"serving"' in line)
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        yield json.loads(found)["url"], audit
        process.terminate()
        process.wait(60)
        drain.wait(60)


def calls_of(audit: Path, step: str) -> list[CallRecord]:
    return [one for one in records(read_audit(audit)) if one.step == step] if audit.exists() else []


@pytest.mark.parametrize("framework", PACKAGES)
def test_example_runs(framework: str, served: tuple[str, Path], tmp_path: Path) -> None:
    url, audit = served
    python = ENVIRONMENTS / framework / "bin" / "python"
    assert python.exists(), f"{python} is missing: run `make test-by-server`, which makes it"
    example = ROOT / "examples" / "by_server" / f"with_{framework.replace('-', '_')}.py"
    own = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], **QUIET}
    done = subprocess.run(
        [str(python), str(example), f"{url}/v1"], env=own, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert done.stdout.strip()
    calls = calls_of(audit, framework)
    assert {str(one.options["mode"]) for one in calls} == {"quadratic_spec"}
    assert [one.error for one in calls] == [None] * len(calls)
    assert verify(audit) == []
    code = f"import importlib.metadata as m; print(m.version({PACKAGES[framework]!r}))"
    version = subprocess.run([str(python), "-c", code], capture_output=True, text=True).stdout.strip()
    kinds = ", ".join(dict.fromkeys(one.kind for one in calls))
    ROWS[framework] = f"| [{framework}](../examples/by_server/{example.name}) | {version} | {len(calls)} | {kinds} |"


def test_the_table_is_written() -> None:
    """Runs last, and writes nothing where not every example ran."""
    assert ROWS
    if list(ROWS) == list(PACKAGES):
        lines = ["| example | version | calls | kind |", "| --- | --- | --- | --- |", *ROWS.values()]
        page = PAGE.read_text(encoding="utf-8")
        before, rest = page.split("<!-- by server -->\n")
        after = rest.split("<!-- end of by server -->")[1]
        text = "\n".join(lines)
        PAGE.write_text(f"{before}<!-- by server -->\n{text}\n<!-- end of by server -->{after}", encoding="utf-8")
