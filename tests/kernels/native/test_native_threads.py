"""The threads of the native kernels: any number of them, for any calling thread, and none after a fork."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from trimode.kernels.native.native_ops import Native

LOOPS = 200


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def product(seed: int) -> tuple[Tensor, Tensor]:
    """Rows and weights of a product that is worth sharing."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(64, 256, generator=rng), torch.randn(700, 256, generator=rng)


@pytest.mark.usefixtures("threads")
def test_the_number_of_threads_changes_no_bit() -> None:
    native = Native.load()
    x, weight = product(0)
    packed, found = native.prepare(weight), list[Tensor]()
    for count in (1, 2, 5, 3):  # fewer than before as well
        torch.set_num_threads(count)
        found += [native.linear(x, packed) for _ in range(LOOPS)]
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.usefixtures("threads")
def test_callers_do_not_meet() -> None:
    native = Native.load()
    torch.set_num_threads(3)
    wrong = list[int]()

    def work(seed: int) -> None:
        x, weight = product(seed)
        packed = native.prepare(weight)
        first = native.linear(x, packed)
        wrong.extend(seed for _ in range(LOOPS) if not torch.equal(native.linear(x, packed), first))

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


FORKED = """
import os, torch
from trimode.kernels.native.native_ops import Native
torch.set_num_threads(3)
native = Native.load()
x, packed = torch.ones(64, 256), native.prepare(torch.ones(700, 256))
before = native.linear(x, packed).numpy()
child = os.fork()  # after it torch's own threads must not be used
same = all((native.linear(x, packed).numpy() == before).all() for _ in range(50))
if not child:
    os._exit(not same)
assert os.waitpid(child, 0)[1] == 0
assert same
"""


def test_a_fork_works_alone_and_ends() -> None:
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=60)
