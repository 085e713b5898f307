"""The Python in README.md and docs/ runs: the blocks of a file in order, sharing one namespace.

A block whose line before is `<!-- not run -->` is left out. What the blocks print is what the page shows after
`<!-- output -->`. Links between the pages lead to files and headings that are there.
"""

from __future__ import annotations

import ast
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
_LINK = re.compile(r"\]\((?!https?://)([^)\s#]*)(?:#([^)\s]+))?\)")


def blocks(text: str) -> list[str]:
    """Code of the blocks that run, with blank lines before it so that errors show the line of the page."""
    fence, found = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL), []
    for match in fence.finditer(text):
        before = text[: match.start()].rstrip("\n").rsplit("\n", 1)[-1]
        if before.strip() != _SKIPPED:
            found.append("\n" * (text[: match.start(1)].count("\n")) + match.group(1))
    return found


def headings(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def astray(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    missing: list[str] = []
    for name, anchor in _LINK.findall(text):
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in headings(target.read_text(encoding="utf-8"))):
            missing.append(f"{name}#{anchor}")
    return missing


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
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))  # programs that a page starts find what is tested here
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    run(str(page), blocks(text))
    shown = re.findall(r"^<!-- output -->\n```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert capsys.readouterr().out == "".join(shown)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert astray(page) == []


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading: *here*\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text("[a](there.md) [b](there.md#a-heading-here) [c](gone.md) [d](there.md#gone) [e](#gone)", "utf-8")
    assert astray(page) == ["gone.md#", "there.md#gone", "#gone"]


def test_the_numbers_moved_from_the_readme_are_on_a_page_that_runs() -> None:
    evaluation = next(page for page in PAGES if page.name == "evaluation.md")
    assert blocks(evaluation.read_text(encoding="utf-8"))


def test_blocks_are_found_and_a_broken_one_fails() -> None:
    fence = "```"
    text = f"{fence}python\na = 1\n{fence}\n{_SKIPPED}\n{fence}python\nb\n{fence}\ntext\n{fence}bash\nc\n{fence}\n"
    text += f"{fence}python\nassert a == 2\n{fence}\n"
    found = blocks(text)
    assert [part.strip() for part in found] == ["a = 1", "assert a == 2"]
    run("page", found[:1])
    with pytest.raises(AssertionError):
        run("page", found)


def bare_bodies(code: str) -> list[str]:
    """The steps whose body is a docstring and `...`: mypy does not take them where `empty-body` is on."""
    functions = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    steps = [one for one in functions if any("step" in ast.unparse(each) for each in one.decorator_list)]
    return [one.name for one in steps if not isinstance(one.body[-1], ast.Return | ast.Raise)]


def test_steps_have_bodies_that_mypy_takes() -> None:
    assert bare_bodies('@tm.step\ndef a(x: str) -> str:\n    """{x}"""\n    ...\n') == ["a"]
    pages = {page.name: "\n".join(blocks(page.read_text(encoding="utf-8"))) for page in PAGES}
    examples = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples").glob("*.py"))}
    assert sum(code.count("@tm.step") for code in [*pages.values(), *examples.values()]) > 8
    assert {name: bare for name, code in {**pages, **examples}.items() if (bare := bare_bodies(code))} == {}
