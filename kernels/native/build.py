"""The library of native.cpp: compiled on first use, kept for later processes.

Knows the compiler, the sources and the folder of compiled files. Needs g++ or clang++; where there is none, it says so.
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
    """The library, keyed by sources, flags, compiler and processor. Raises NativeUnavailable."""
    compiler = found()
    key = hashlib.sha256(
        "\0".join((*(part.read_text() for part in PARTS), *FLAGS, compiler, platform.machine(), processor())).encode()
    ).hexdigest()[:16]
    library = cache_folder() / f"native-{key}.so"
    if not library.exists():
        _compile(compiler, library)
    return library


def found() -> str:
    """The compiler. Raises NativeUnavailable."""
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NativeUnavailable("no C++ compiler here (g++ or clang++, or the one that CXX names)")
    return compiler


def cache_folder() -> Path:
    """Where this package keeps what it can make again: `TRIMODE_CACHE`, or ~/.cache/trimode."""
    return Path(os.environ.get("TRIMODE_CACHE") or Path.home() / ".cache" / "trimode")


def _compile(compiler: str, library: Path) -> None:
    """Writes beside and renames, so that processes that start together do not read half a file."""
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(made)], check=True, capture_output=True, text=True)
            made.replace(library)
    except OSError as error:
        raise NativeUnavailable(f"cannot write {library}: {error}") from None
    except subprocess.CalledProcessError as error:
        raise NativeUnavailable(f"{compiler} failed: {error.stderr.strip()[-500:]}") from None


def processor() -> str:
    """What the processor is and can do, as -march=native sees it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
