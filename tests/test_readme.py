"""The Python in README.md and docs/ runs: the blocks of a file in order, sharing one namespace.

A block whose line before is `<!-- not run -->` is left out. What the blocks print is what the page shows after
`<!-- output -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from trimode.kernels import ops

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_SKIPPED = "<!-- not run -->"


def blocks(text: str) -> list[str]:
    """Code of the blocks that run, with blank lines before it so that errors show the line of the page."""
    fence, found = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL), []
    for match in fence.finditer(text):
        before = text[: match.start()].rstrip("\n").rsplit("\n", 1)[-1]
        if before.strip() != _SKIPPED:
            found.append("\n" * (text[: match.start(1)].count("\n")) + match.group(1))
    return found


def run(page: str, parts: list[str]) -> None:
    """Runs the parts as one module, in which annotations resolve."""
    module = ModuleType("page")
    sys.modules["page"] = module
    try:
        for part in parts:
            exec(compile(part, page, "exec"), vars(module))
    finally:
        del sys.modules["page"]


def test_readme_has_python() -> None:
    assert blocks(PAGES[0].read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ops.kernels(torch.device("cpu"), torch.float32)  # compiled, or found, in the real cache
    monkeypatch.setenv("TRIMODE_CACHE", str(tmp_path / "cache"))  # what pages learn is nobody's
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    run(str(page), blocks(text))
    shown = re.findall(r"^<!-- output -->\n```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert capsys.readouterr().out == "".join(shown)


def test_blocks_are_found_and_a_broken_one_fails() -> None:
    fence = "```"
    text = f"{fence}python\na = 1\n{fence}\n{_SKIPPED}\n{fence}python\nb\n{fence}\ntext\n{fence}bash\nc\n{fence}\n"
    text += f"{fence}python\nassert a == 2\n{fence}\n"
    found = blocks(text)
    assert [part.strip() for part in found] == ["a = 1", "assert a == 2"]
    run("page", found[:1])
    with pytest.raises(AssertionError):
        run("page", found)
