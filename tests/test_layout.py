"""The shape of the repository: four linked folders, imports that point down only, and a public surface that is a list.

`kernels/` has no `__init__.py`: whenever the repository root is on `sys.path`, a top-level package `kernels` would
shadow Hugging Face's library of that name, and transformers would import ours in its place.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trimode

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("integrations", "policy", "engine", "kernels")
"""From the top down: a layer may import those behind it."""
KEPT_OUT = {"engine": {"opentelemetry", "pydantic", "llguidance"}}
ONLY = {"kernels": {"__future__", "torch", "triton", "trimode", *sys.stdlib_module_names}}


@pytest.mark.parametrize("layer", LAYERS)
def test_links_resolve(layer: str) -> None:
    link = ROOT / "src" / "trimode" / layer
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == ROOT / layer


def test_no_package_of_ours_shadows_anothers() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "__init__.py").exists()
    assert not (ROOT / "conftest.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert importlib.import_module("trimode.kernels.ops").__name__ == "trimode.kernels.ops"


def imported(source: str, depth: int) -> Iterator[str]:
    """Names of every import, those inside functions too; relative ones only where they leave the layer."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level > depth:
            yield f"trimode.{'.' * node.level}{node.module}"


def violations(layer: str, source: str, depth: int = 1) -> list[str]:
    """Imports of a file of `layer` that point up or outside; `depth`: 1 in the layer's own folder."""
    reachable = LAYERS[LAYERS.index(layer) :]
    found = []
    for name in imported(source, depth):
        first, second = [*name.split("."), ""][:2]
        upward = first == "trimode" and second not in reachable
        outside = first in KEPT_OUT.get(layer, ()) or first not in ONLY.get(layer, {first})
        if upward or outside or first in LAYERS:
            found.append(name)
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_down(layer: str) -> None:
    folder = ROOT / layer
    sources = sorted(folder.rglob("*.py"))
    assert sources
    depths = {path: len(path.relative_to(folder).parts) for path in sources}
    found = {path.name: violations(layer, path.read_text(encoding="utf-8"), depths[path]) for path in sources}
    assert not any(found.values()), {name: wrong for name, wrong in found.items() if wrong}


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("engine", "from trimode.policy.engine import Engine"),
        ("engine", "def f():\n    import pydantic"),
        ("engine", "from opentelemetry import trace"),
        ("engine", "from ..policy import schema"),
        ("policy", "import trimode.integrations.cli.app"),
        ("policy", "from trimode import Engine"),
        ("policy", "from engine.model import Transformer"),
        ("kernels", "from trimode.engine.model import Transformer"),
        ("kernels", "import numpy"),
    ],
)
def test_planted_violations_are_found(layer: str, source: str) -> None:
    assert violations(layer, source)
    assert not violations(layer, "import torch\nfrom trimode.kernels import ops\nfrom .near import by")


def test_public_names() -> None:
    assert trimode.__all__ == sorted(trimode.__all__)
    for name in trimode.__all__:
        assert getattr(trimode, name) is not None
    assert not set(trimode.__all__) & set(LAYERS), "a function named like a subpackage would replace it"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = trimode.nothing


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, trimode; assert not {'torch', 'pydantic', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_audit_files_are_read_without_torch() -> None:
    code = "import sys, trimode.policy.audit, trimode.policy.audit_view; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
