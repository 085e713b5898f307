"""The thread pool alone, compiled without the ops: a loop that ends too early or too late fails here first."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from trimode.kernels.native import build

PROGRAM = Path(__file__).with_name("thread_pool.cpp")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary = tmp_path_factory.mktemp("thread_pool") / "loops"
    kernels = build.SOURCE.resolve().parent
    command = [build.found(), "-O2", "-std=c++17", "-pthread", f"-I{kernels}", str(PROGRAM), "-o", str(binary)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return binary


@pytest.mark.parametrize(("threads", "loops"), [(2, 400_000), (3, 60_000), (7, 20_000)])
def test_each_item_is_done_once_before_the_loop_ends(program: Path, threads: int, loops: int) -> None:
    """Threads that are late from one loop must not take items of the next one; some 20 in 400,000 loops once did."""
    found = subprocess.run([program, str(threads), str(loops)], check=True, capture_output=True, text=True)
    assert found.stdout == "0\n"
