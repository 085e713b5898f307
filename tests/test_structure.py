"""docs/structure.md against the code: every file has its line in its room, and the drawing shows the imports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
LAYERS = ("integrations", "policy", "engine", "kernels")
SOURCES = sorted(
    path.relative_to(ROOT)
    for layer in LAYERS
    for path in (ROOT / layer).rglob("*.*")
    if path.suffix in (".py", ".h", ".cpp") and path.name != "__init__.py"
)


def part(heading: str, level: str) -> str:
    """What stands below a heading, to the next one of its level or above."""
    found = re.search(
        rf"^{level} {re.escape(heading)}\b.*?(?=^#{{2,{len(level)}}} |\Z)", PAGE, re.DOTALL | re.MULTILINE
    )
    assert found is not None, heading
    return found.group()


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_every_file_is_named_in_its_room(path: Path) -> None:
    inside = path.parent.parent != Path()
    text = part(str(path.parent), "###" if inside else "##")
    text = text if inside else text.split("\n### ")[0]
    assert f"`{path.name}`" in text


def nodes() -> dict[str, str]:
    """Module prefixes to the node of the drawing that they belong to."""
    found: dict[str, str] = {}
    for node, folder, names in re.findall(r'(\w+)\["(\w+): ([\w, ]+)"\]', PAGE):
        prefix = "trimode" if folder == "src" else f"trimode.{folder}"
        found |= {f"{prefix}.{name}": node for name in names.split(", ")}
    return found


def drawn() -> dict[str, set[str]]:
    lines = re.findall(r"^ +(\w+) --> ([\w &]+)$", PAGE, re.MULTILINE)
    return {source: set(targets.split(" & ")) for source, targets in lines}


def imported() -> Iterator[tuple[str, str]]:
    """Arrows between nodes, by the imports between their modules."""
    graph, known = grimp.build_graph("trimode", "trimode.kernels", cache_dir=None), nodes()

    def node(module: str) -> str | None:
        parts = module.split(".")
        if parts == ["trimode"]:
            return known["trimode.__init__"]
        return known.get(".".join(parts[:3])) or known.get(".".join(parts[:2]))

    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            arrow = node(module), node(other)
            if arrow[0] is not None and arrow[1] is not None and arrow[0] != arrow[1]:
                yield arrow[0], arrow[1]


def reached(arrows: dict[str, set[str]], start: str) -> set[str]:
    found, stack = set[str](), [start]
    while stack:
        new = arrows.get(stack.pop(), set()) - found
        found |= new
        stack += new
    return found


def test_every_module_is_in_the_drawing() -> None:
    known = nodes()
    for path in SOURCES:
        first_two = ".".join(("trimode", *path.with_suffix("").parts[:2]))
        assert first_two in known, path


def test_the_drawing_shows_the_imports() -> None:
    arrows, found = drawn(), set(imported())
    assert found
    extra = {(source, target) for source, targets in arrows.items() for target in targets} - found
    assert not extra, "drawn, but nothing imports it"
    missing = {(source, target) for source, target in found if target not in reached(arrows, source)}
    assert not missing, "imported, but not drawn"
