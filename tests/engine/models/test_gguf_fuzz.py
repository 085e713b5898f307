"""GGUF files with bytes cut, flipped, doubled or made large: each loads, or is a CheckpointError that names the file.

Whatever a header claims, the memory taken stays that of a small file. `test_gguf_hostile.py` has the faults one by one.
"""

from __future__ import annotations

import resource
import struct
import tracemalloc
from pathlib import Path

import gguf_files
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimode.engine.errors import CheckpointError
from trimode.engine.models.checkpoint import Checkpoint

CPU = torch.device("cpu")
HEADER = 20_000
"""Bytes of metadata and tensor infos, about."""
LARGE = (0, 1, 8, 0xFF, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 62, 1 << 63, (1 << 64) - 1)
PLACES = st.one_of(st.integers(0, 1500), st.integers(0, HEADER), st.integers(0, 1 << 20))
EDITS = st.one_of(
    st.tuples(st.just("flip"), PLACES, st.integers(1, 255)),
    st.tuples(st.just("number"), PLACES, st.sampled_from(LARGE)),
    st.tuples(st.just("byte"), PLACES, st.sampled_from((0, 4, 8, 9, 0xC3, 0xFF))),
    st.tuples(st.just("cut"), PLACES, st.integers(1, 64)),
    st.tuples(st.just("double"), PLACES, st.integers(1, 64)),
    st.tuples(st.just("end"), PLACES, st.just(0)),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    made = gguf_files.oracle(hidden_size=32, intermediate_size=32, head_dim=8, num_hidden_layers=1)
    return gguf_files.written(tmp_path_factory.mktemp("gguf") / "model.gguf", made, kind="Q8_0").read_bytes()


def edited(raw: bytearray, kind: str, at: int, value: int) -> None:
    at %= max(len(raw), 1)
    match kind:
        case "flip" if raw:
            raw[at] ^= value
        case "number":
            raw[at : at + 8] = struct.pack("<Q", value)
        case "byte" if raw:
            raw[at] = value
        case "cut":
            del raw[at : at + value]
        case "double":
            raw[at:at] = raw[at : at + value]
        case _:
            del raw[at:]


def said(path: Path, in_files: bool) -> str:
    """What the file is refused with; its path where it loads."""
    try:
        model, _ = Checkpoint(path, "fuzz").load(torch.float32, CPU, in_files)
        if model.stored is not None:
            for name in model.state_dict():
                model.stored.read(name)
    except CheckpointError as error:
        return str(error)
    return str(path)


@given(edits=st.lists(EDITS, min_size=1, max_size=4), in_files=st.booleans())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_loads_or_is_refused_within_the_memory_of_a_small_file(
    tmp_path: Path, whole: bytes, edits: list[tuple[str, int, int]], in_files: bool
) -> None:
    raw, path = bytearray(whole), tmp_path / "model.gguf"
    for edit in edits:
        edited(raw, *edit)
    path.write_bytes(raw)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        assert str(path) in said(path, in_files)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "in KiB: torch's memory too"
