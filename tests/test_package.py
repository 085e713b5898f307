"""What a user gets: wheel and sdist hold what they should, and the README's example runs where only the wheel is ours.

The package is built once from a copy of the tree, the wheel from the sdist, as an installer does. Nothing is
downloaded: dependencies of the fresh environment are those of the environment that runs the tests.
"""

from __future__ import annotations

import email
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from filelock import FileLock

import trimode

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("integrations", "policy", "engine", "kernels")
FILES = ("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "MANIFEST.in", "pyproject.toml", "setup.py")
SHIPPED = ("docs", "examples")
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info")
NAME = f"trimode-{trimode.__version__}"
RELATIVE = re.compile(r"\]\((?!https?://|#)")


def under(folder: Path) -> dict[str, bytes]:
    """Files below a folder by their paths, links followed."""
    found = (Path(top) / name for top, _, names in os.walk(folder, followlinks=True) for name in names)
    ours = (path for path in found if not re.search(r"__pycache__|\.egg-info|\.DS_Store", str(path)))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in ours}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder with sdist and wheel, built by whichever worker comes first."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    with FileLock(shared / "package.lock"):
        if not (shared / "package").exists():
            tree = tmp_path_factory.mktemp("tree")
            for name in (*LAYERS, *SHIPPED, "src", "tests"):
                shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=IGNORED)
            for name in FILES:
                shutil.copy(ROOT / name, tree)
            command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tree / "dist"), str(tree)]
            ran = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=240)
            assert ran.returncode == 0, ran.stdout + ran.stderr
            (tree / "dist").rename(shared / "package")
    return shared / "package"


def test_wheel_and_sdist_hold_the_package_and_nothing_else(dist: Path) -> None:
    wheel, sdist = dist / f"{NAME}-py3-none-any.whl", dist / f"{NAME}.tar.gz"
    assert sorted(dist.iterdir()) == sorted([wheel, sdist])
    package = {f"trimode/{name}": data for name, data in under(ROOT / "src" / "trimode").items()}
    needed = {
        "trimode/kernels/native/native.cpp", "trimode/kernels/native/simd.h", "trimode/py.typed",
        "trimode/integrations/report/assets/report.js", "trimode/integrations/report/assets/shared.js",
        "trimode/integrations/workload/show/assets/workload.html", "trimode/integrations/cli/data/episodes.jsonl.gz",
        "trimode/checkpoints/reference/model.safetensors", "trimode/checkpoints/reference/LICENSE",
        "trimode/adapters/smollm2-135m/adapter_model.safetensors", "trimode/adapters/smollm2-135m/LICENSE",
    }  # fmt: skip
    assert needed <= set(package)
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
        notices = {name.split("licenses/")[1] for name in archive.namelist() if "licenses/" in name}
    assert found == package
    assert notices == {
        "LICENSE", "src/trimode/checkpoints/reference/LICENSE", "src/trimode/adapters/smollm2-135m/LICENSE"
    }  # fmt: skip
    shipped = {f"{folder}/{name}": data for folder in SHIPPED for name, data in under(ROOT / folder).items()}
    expected = shipped | {name: (ROOT / name).read_bytes() for name in FILES}
    expected |= {f"src/{name}": data for name, data in package.items()}
    assert unpacked(sdist) == expected


def unpacked(sdist: Path) -> dict[str, bytes]:
    """What the sdist holds besides what setuptools writes; links are none."""
    found = dict[str, bytes]()
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            assert member.isreg() or member.isdir(), member.name
            name = member.name.removeprefix(f"{NAME}/")
            content = archive.extractfile(member)
            if content is not None and not re.search(r"^PKG-INFO$|^setup\.cfg$|\.egg-info/", name):
                found[name] = content.read()
    return found


def test_metadata_says_what_it_is(dist: Path) -> None:
    with zipfile.ZipFile(dist / f"{NAME}-py3-none-any.whl") as archive:
        metadata = email.message_from_bytes(archive.read(f"{NAME}.dist-info/METADATA"))
    assert metadata["Version"] == trimode.__version__ == version("trimode")
    assert metadata["License-Expression"] == "Apache-2.0 AND CC-BY-SA-4.0"
    assert metadata["Requires-Python"] == ">=3.11"
    classifiers = metadata.get_all("Classifier", [])
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(classifiers)
    assert metadata["Description-Content-Type"] == "text/markdown"
    body = metadata.get_payload(decode=True)
    assert isinstance(body, bytes)
    page = body.decode()
    assert page.startswith("# trimode\n")
    assert not RELATIVE.search(re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL))


def test_links_of_the_page_lead_to_the_tag_of_the_version_or_nowhere() -> None:
    page = runpy.run_path(str(ROOT / "setup.py"))["page"]
    text = "![a](docs/a.png)\nIts caption.\n\n[b](docs/b.md#c), [`d.md`](d.md) [e](https://e.org)\n```\n[f](f)\n```\n"
    linked = page(text, "https://example.org/us/trimode/", "1.2")
    base = "https://example.org/us/trimode"
    assert linked == (
        f"![a]({base}/raw/v1.2/docs/a.png)\nIts caption.\n\n[b]({base}/blob/v1.2/docs/b.md#c), "
        f"[`d.md`]({base}/blob/v1.2/d.md) [e](https://e.org)\n```\n[f](f)\n```\n"
    )
    plain = page(text, None, "1.2")
    assert plain.startswith("b (`docs/b.md`), `d.md` [e](https://e.org)\n```\n[f](f)\n```\n\nFiles named here")
    assert "example.org" not in plain


def test_the_example_of_the_readme_runs_from_the_wheel(dist: Path, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"^```python\n(.*?)^```\n\n<!-- output -->\n```\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert example is not None
    (tmp_path / "example.py").write_text(example[1], encoding="utf-8")
    programs = fresh_environment(tmp_path / "fresh", dist / f"{NAME}-py3-none-any.whl")

    def printed(program: str, *arguments: str) -> str:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [str(programs / program), *arguments]
        ran = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=240)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    where = "import trimode.kernels.ops as ops, trimode; print(trimode.__file__, ops.__file__, sep='\\n')"
    assert all(Path(line).is_relative_to(tmp_path) for line in printed("python", "-c", where).splitlines())
    assert printed("trimode", "--version") == f"trimode {trimode.__version__}\n"
    assert printed("python", "example.py") == example[2]
    printed("trimode", "audit", "verify", "audit.jsonl")
    printed("trimode", "audit", "report", "audit.jsonl", "-o", "report.html")
    assert "calculator" in (tmp_path / "report.html").read_text(encoding="utf-8")


def fresh_environment(folder: Path, wheel: Path) -> Path:
    """An environment with the wheel, before the packages of this one; the folder of its programs."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    python = folder / "bin" / "python"
    install = ["--python", str(python), "install", "--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=120)
    (packages,) = (folder / "lib").glob("python3.*/site-packages")
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "others.pth").write_text("\n".join(others), encoding="utf-8")
    return folder / "bin"
