"""Files of packed matrices: what comes back, what is noticed, and processes that write, are killed and read at once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimode.kernels.blocks import Blocks, to_blocks
from trimode.kernels.native import pack_file
from trimode.kernels.native.native_ops import Native
from trimode.kernels.native.pack_file import PackFile, PackFileUnusable
from trimode.kernels.native.packed import Packed

PACKER = Native.load().packer


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def matrices() -> dict[str, Packed]:
    weight = draw(70, 96)
    sources: dict[str, Tensor | Blocks] = {
        "whole": weight,
        "halves": weight.bfloat16(),
        "eights": to_blocks(weight, "Q8_0"),
    }
    return {name: PACKER.packed(source) for name, source in sources.items()}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "packed.bin"
    pack_file.write(path, PACKER, matrices().items())
    return path


def same(found: dict[str, Packed]) -> bool:
    return all(
        torch.equal(found[name].data, made.data) and (found[name].kind, found[name].shape) == (made.kind, made.shape)
        for name, made in matrices().items()
    )


def test_what_was_written_comes_back_mapped(good: Path) -> None:
    found = PackFile.open(good, PACKER).matrices
    assert list(found) == ["whole", "halves", "eights"]
    assert same(found)
    assert len({each.data.untyped_storage().data_ptr() for each in found.values()}) == 1, "one mapping"
    x, native = draw(3, 96, seed=1), Native.load()
    assert torch.equal(native.linear(x, found["eights"]), native.linear(x, matrices()["eights"]))
    assert [path.name for path in good.parent.iterdir()] == ["packed.bin"]


@given(st.data())
@settings(deadline=None, derandomize=True, max_examples=60)
def test_any_changed_or_missing_byte_is_noticed(good: Path, data: st.DataObject) -> None:
    """Bytes between two matrices alone are nobody's."""
    whole = bytearray(good.read_bytes())
    bad = good.with_name("bad.bin")
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        at = data.draw(st.sampled_from([0, 100, len(whole) - 1, len(whole) - 9, len(whole) - 45, len(whole) - 200]))
        whole[at] ^= 1 << data.draw(st.integers(0, 7))
    bad.write_bytes(whole)
    try:
        with pytest.raises(PackFileUnusable, match=r"bad\.bin: "):
            PackFile.open(bad, PACKER)
    finally:
        bad.unlink()


def test_a_digest_changes_with_every_bit() -> None:
    data = torch.arange(131, dtype=torch.uint8)
    digests = {PACKER.digest(data)}
    for at in range(131):
        for bit in range(8):
            changed = data.clone()
            changed[at] ^= 1 << bit
            digests.add(PACKER.digest(changed))
    assert len(digests) == 131 * 8 + 1


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def full() -> Iterator[tuple[str, Packed]]:
        yield "first", matrices()["whole"]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        pack_file.write(tmp_path / "packed.bin", PACKER, full())
    assert not list(tmp_path.iterdir())


@given(st.lists(st.sampled_from("abc"), max_size=12))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_of_the_builds_of_the_same_matrices_the_last_used_ones_are_kept(
    tmp_path_factory: pytest.TempPathFactory, builds: list[str]
) -> None:
    """A list of builds, each of which opens its file, or writes it. The naive twin keeps names in the order of use."""
    folder, used = tmp_path_factory.mktemp("builds"), list[str]()
    strangers = {folder / "packed-other-a.bin", folder / "native-same.so"}
    for path in strangers:
        path.touch()
    for time, build in enumerate(builds):
        path = folder / f"packed-same-{build}.bin"
        if not path.exists():
            path.touch()
            pack_file.remove_superseded(path)
        os.utime(path, ns=(time, time))
        used = [*(name for name in used if name != build), build][-pack_file.KEPT :]
    assert set(folder.iterdir()) == strangers | {folder / f"packed-same-{build}.bin" for build in used}


def test_opening_notes_the_use_and_what_is_mapped_stays_when_its_file_is_removed(tmp_path: Path) -> None:
    old, other, new = (tmp_path / f"packed-same-{name}.bin" for name in ("old", "other", "new"))
    for path in (old, other):
        pack_file.write(path, PACKER, matrices().items())
        os.utime(path, ns=(1, 1))
    mapped = PackFile.open(old, PACKER).matrices
    assert old.stat().st_mtime_ns > other.stat().st_mtime_ns, "used last"
    pack_file.write(new, PACKER, matrices().items())
    pack_file.remove_superseded(new)
    assert {path.name for path in tmp_path.iterdir()} == {old.name, new.name}
    old.unlink()
    assert same(mapped)


WRITER = """
import sys
from pathlib import Path
import torch
from trimode.kernels.native import pack_file
from trimode.kernels.native.native_ops import Native
packer, path = Native.load().packer, Path(sys.argv[1])
matrix = packer.packed(torch.ones(64, 64))
def slowly():
    yield "first", matrix
    print("half", flush=True)
    sys.stdin.readline()
    yield "second", matrix
pack_file.write(path, packer, slowly())
print("done", flush=True)
"""


def writer(path: Path) -> subprocess.Popen[str]:
    begun = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert begun.stdout is not None
    assert begun.stdout.readline() == "half\n"
    return begun


def test_a_writer_that_is_killed_leaves_no_file_and_the_next_one_tidies_up(tmp_path: Path) -> None:
    path = tmp_path / "packed.bin"
    alive, killed = writer(path), writer(path)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 2, "one is being written, one is left"
    pack_file.write(path, PACKER, matrices().items())
    assert len(list(tmp_path.iterdir())) == 2, "the one that is being written stays"
    assert same(PackFile.open(path, PACKER).matrices)
    mapped = PackFile.open(path, PACKER).matrices
    assert alive.communicate("\n")[0] == "done\n"
    assert list(PackFile.open(path, PACKER).matrices) == ["first", "second"], "the last one that is whole"
    assert same(mapped), "what was mapped before stays as it was"
    assert [each.name for each in tmp_path.iterdir()] == ["packed.bin"]
