"""Compiles native.cpp on first use and keeps the library for later processes.

Knows the compiler, the sources and the cache folder. Does not know tensors. Needs g++ or clang++.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("native.cpp")
PARTS: Final = (SOURCE, *sorted(SOURCE.parent.glob("*.h")))
FLAGS: Final = ("-O3", "-march=native", "-std=c++17", "-pthread", "-shared", "-fPIC")


class NativeUnavailable(RuntimeError):
    """The kernels cannot be compiled or loaded here; the message says why."""


def compiled() -> Path:
    """Returns the library's path, keyed by sources, flags, compiler and processor. Raises NativeUnavailable."""
    compiler = found()
    key = hashlib.sha256(
        "\0".join((*(part.read_text() for part in PARTS), *FLAGS, compiler, platform.machine(), processor())).encode()
    ).hexdigest()[:16]
    library = cache_folder() / f"native-{key}.so"
    if not library.exists():
        _compile(compiler, library)
    return library


def found() -> str:
    """Returns the compiler's path. Raises NativeUnavailable."""
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NativeUnavailable("no C++ compiler here (g++ or clang++, or the one that CXX names)")
    return compiler


def cache_folder() -> Path:
    """Returns the folder for what this package can compute again: `TRIMODE_CACHE`, or ~/.cache/trimode."""
    return Path(os.environ.get("TRIMODE_CACHE") or Path.home() / ".cache" / "trimode")


def _compile(compiler: str, library: Path) -> None:
    """Writes to a temporary folder and renames, so that no process reads half a file."""
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder) / library.name
            command = [compiler, *FLAGS, str(SOURCE), "-o", str(built)]
            subprocess.run(command, check=True, capture_output=True, text=True)
            built.replace(library)
    except OSError as error:
        raise NativeUnavailable(f"cannot write {library}: {error}") from None
    except subprocess.CalledProcessError as error:
        raise NativeUnavailable(f"{compiler} failed: {error.stderr.strip()[-500:]}") from None


def processor() -> str:
    """Returns the processor's model and features, as -march=native sees them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
