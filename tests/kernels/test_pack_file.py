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
