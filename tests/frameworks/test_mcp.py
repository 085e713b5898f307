"""MCP, with the SDK at both ends, in an environment of its own, which `make test-integrations` makes.

The program beside this file runs there, by pytest. The table of docs/mcp.md is written by what was found.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Final

import pytest

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(600)]
ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAMS: Final = Path(__file__).parent / "programs"
PYTHON: Final = Path(os.environ.get("TRIMODE_FRAMEWORKS", ROOT / ".frameworks")) / "newest" / "mcp" / "bin" / "python"
PAGE: Final = ROOT / "docs" / "mcp.md"


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs Python in the environment."""
    assert PYTHON.exists(), f"{PYTHON} is missing: run `make test-integrations`, which makes it"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(PROGRAMS)])}
    return subprocess.run([str(PYTHON), *arguments], env=environment, capture_output=True, text=True, **options)


def test_with_the_sdk(tmp_path: Path) -> None:
    """Every test of the program passes; its names become the table."""
    report = tmp_path / "mcp.xml"
    options = ["-c", os.devnull, f"--rootdir={PROGRAMS}", f"--confcutdir={PROGRAMS}", "-p", "no:cacheprovider"]
    done = run("-m", "pytest", str(PROGRAMS / "in_mcp.py"), *options, f"--junitxml={report}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    names = [case.get("name", "").split("[")[0] for case in ElementTree.parse(report).iter("testcase")]
    version = run("-c", "import importlib.metadata as m; print(m.version('mcp'))").stdout.strip()
    rows = [f"| {name.removeprefix('test_').replace('_', ' ')} | passed |" for name in dict.fromkeys(names)]
    table = "\n".join([f"| | mcp {version} |", "| --- | --- |", *rows])
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split("<!-- table -->\n")
    after = rest.split("<!-- end of table -->")[1]
    PAGE.write_text(f"{before}<!-- table -->\n{table}\n<!-- end of table -->{after}", encoding="utf-8")


def test_example_runs(tmp_path: Path) -> None:
    done = run(str(ROOT / "examples" / "frameworks" / "10_mcp.py"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the server says 'sunny in " in done.stdout
    assert (tmp_path / "audit.jsonl").exists()


def test_first_answer_of_the_page_runs(tmp_path: Path) -> None:
    part = PAGE.read_text(encoding="utf-8").split("<!-- mcp -->\n")[1].split("\n## ")[0]
    code, shown = re.findall(r"```python\n(.*?)```.*?```\n(.*?)```", part, re.DOTALL)[0]
    done = run("-c", code, cwd=tmp_path)
    assert done.stdout == shown, done.stderr[-3000:]


def test_types_against_the_sdk(tmp_path: Path) -> None:
    """mypy, strict, with the SDK's own types, which .venv does not have."""
    settings = tmp_path / "mypy.ini"
    untyped = "[mypy-llguidance.*,safetensors.*,transformers.*,triton.*]\nignore_missing_imports = true\n"
    settings.write_text(f"[mypy]\nstrict = true\nmypy_path = {ROOT / 'src'}\n{untyped}", encoding="utf-8")
    files = map(str, sorted((ROOT / "src/trimode/integrations/mcp").glob("*.py")))
    cache = str(PYTHON.parents[1] / "mypy_cache")
    options = ["--config-file", str(settings), "--cache-dir", cache, "--follow-imports", "silent"]
    command = [sys.executable, "-m", "mypy", *options, "--python-executable", str(PYTHON), *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
