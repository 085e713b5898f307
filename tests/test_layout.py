"""The shape of the repository: four linked folders, rooms whose imports are contracts, and a public list of names.

`kernels/` has no `__init__.py`: whenever the repository root is on `sys.path`, a top-level package `kernels` would
shadow Hugging Face's library of that name, and transformers would import ours in its place.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import trimode

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("integrations", "policy", "engine", "kernels")
IGNORED = shutil.ignore_patterns("__pycache__", "checkpoints", "*.egg-info")


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


def checked(root: Path) -> subprocess.CompletedProcess[str]:
    """The contracts of pyproject.toml against the sources under `root`."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)


def test_the_contracts_of_the_rooms_hold() -> None:
    found = checked(ROOT)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("engine/errors.py", "from trimode.policy.errors import PolicyError", "layers"),
        ("policy/audit/record.py", "import trimode.integrations.cli.app", "layers"),
        ("policy/schema/texts.py", "if TYPE_CHECKING:\n    from ..grammar import Matcher", "rooms of policy"),
        ("engine/models/config.py", "def f():\n    from ..forward import batch", "rooms of engine"),
        ("engine/kv_cache/pages.py", "from ..decoding import gate", "rooms of engine"),
        ("kernels/native/build.py", "from ..gpu import norm", "rooms of kernels"),
        ("policy/json_schema/document.py", "from .rewrite import rewritten", "no import circles"),
        ("policy/calls/call.py", "from ..schema.targets import Schema", "the door of schema"),
        ("engine/request.py", "import pydantic", "the engine knows tokens, not schemas or spans"),
        ("kernels/layout.py", "def f():\n    import numpy", "kernels know tensors"),
        ("policy/stray.py", "", "rooms of policy"),
    ],
)
def test_planted_violations_break_a_contract(tmp_path: Path, file: str, line: str, broken: str) -> None:
    for folder in ("src", *LAYERS):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=IGNORED)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    found = checked(tmp_path)
    assert found.returncode != 0
    assert f"{broken} BROKEN" in found.stdout, found.stdout


def test_no_folder_and_no_file_of_the_package_is_large() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    ours = [Path(name) for name in listed.stdout.split("\0") if name and not name.startswith("docs/")]
    sources = ours or [path.relative_to(ROOT) for layer in (*LAYERS, "tests") for path in (ROOT / layer).rglob("*.*")]
    crowded = {str(folder): count for folder, count in Counter(path.parent for path in sources).items() if count > 20}
    assert not crowded
    code = [path for path in sources if path.suffix in (".py", ".h", ".cpp") and path.parts[0] in LAYERS]
    assert not {str(path): lines for path in code if (lines := len((ROOT / path).read_text().splitlines())) > 300}


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
    code = "import sys, trimode.policy.audit, trimode.integrations.cli.audit_tables; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
