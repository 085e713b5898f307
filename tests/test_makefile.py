"""`make` takes the first Python from 3.11 to 3.13 that runs, and says so where there is none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).resolve().parents[1] / "Makefile"
SHOW = "--eval=taken: ; $(info takes [$(PYTHON)])"
BROKEN = "exit 127"
"""What a version manager's shim does for a version that is not chosen; another version of Python refuses likewise."""


def made(folder: Path, programs: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """make with these shell scripts on PATH and nothing else."""
    found = shutil.which("make")
    if found is None:
        pytest.skip("no make here")
    path = folder / "bin"
    path.mkdir()
    for name, script in programs.items():
        (path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (path / name).chmod(0o755)
    shutil.copy(MAKEFILE, folder)
    for name in ("pyproject.toml", "constraints.txt", "setup.py"):
        (folder / name).touch()
    environment = {"PATH": str(path)}
    command = [found, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("working", "taken"),
    [
        (("python3.11", "python3.12"), "python3.11"),
        (("python3.12", "python3.13"), "python3.12"),
        (("python3.13", "python3"), "python3.13"),
        (("python3",), "python3"),
    ],
)
def test_the_first_python_that_works_is_taken(tmp_path: Path, working: tuple[str, ...], taken: str) -> None:
    names = ("python3.11", "python3.12", "python3.13", "python3")
    programs = {name: f'exec "{sys.executable}" "$@"' if name in working else BROKEN for name in names}
    ran = made(tmp_path, programs, SHOW, "taken")
    assert f"takes [{taken}]" in ran.stdout, ran.stderr


@pytest.mark.parametrize(("minor", "taken"), [(10, ""), (11, "python3"), (13, "python3"), (14, "")])
def test_a_python_of_another_version_is_not_taken(tmp_path: Path, minor: int, taken: str) -> None:
    """The check itself, run by a Python that claims to be of another version."""
    claim = f"import sys; sys.version_info = (3, {minor}, 0); exec(sys.argv[1])"
    ran = made(tmp_path, {"python3": f'exec "{sys.executable}" -c "{claim}" "$2"'}, SHOW, "taken")
    assert f"takes [{taken}]" in ran.stdout, ran.stderr


def test_without_a_python_make_says_what_it_wants(tmp_path: Path) -> None:
    ran = made(tmp_path, {"test": 'exec /usr/bin/test "$@"'}, ".venv/.installed")
    assert ran.returncode != 0
    assert "no Python 3.11, 3.12 or 3.13" in ran.stderr
