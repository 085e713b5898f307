"""Engines and processes: forked children of a parent that decodes, and those that start afresh."""

from __future__ import annotations

import subprocess
import sys

import pytest

FORKED = """
import os, signal, sys, threading
import trimode as tm

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["a"]}
engine = tm.Engine.load(kernels=sys.argv[1])
one = tm.session(engine, trace=None)

def words():
    free = engine.generate("Hello there", max_tokens=8).token_ids
    held = engine.generate("a number:", schema=SCHEMA, max_tokens=24, mode=sys.argv[2])
    return free, held.token_ids

before = words()
running = threading.Event()
def long():
    for event in engine.stream("Once upon a time", max_tokens=600, temperature=1.0, seed=3, mode="ar"):
        running.set()
other = threading.Thread(target=long, daemon=True)
if sys.argv[3] == "amid":
    other.start()
    assert running.wait(60)
child = os.fork()
if not child:
    signal.alarm(120)
    same = words() == before
    engine.close()
    os._exit(0 if same else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert words() == before
engine.close()
"""

STARTED = """
import multiprocessing, sys
import trimode as tm

def words(given=None):
    with given or tm.Engine.load() as engine:
        return engine.generate("Hello there", max_tokens=8).token_ids

if __name__ == "__main__":
    before = words()
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        assert pool.apply_async(words).get(120) == before
"""


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("mode", ["ar", "quadratic_spec"])
@pytest.mark.parametrize("when", ["amid", "between"])
def test_a_forked_process_decodes_as_its_parent_does(kernels: str, mode: str, when: str) -> None:
    if (kernels, when) == ("torch", "between") and mode == "ar":
        mode = "diffusion"
    subprocess.run([sys.executable, "-c", FORKED, kernels, mode, when], check=True, timeout=240)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_processes_load_engines_of_their_own(method: str, tmp_path: object) -> None:
    script = f"{tmp_path}/script.py"
    with open(script, "w", encoding="utf-8") as file:
        file.write(STARTED)
    subprocess.run([sys.executable, script, method], check=True, timeout=240)
