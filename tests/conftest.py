"""What every test shares: one CPU thread, how Triton kernels run, and the helper modules under their plain names.

Triton reads TRITON_INTERPRET when it is imported, so it is set here, before any module of ours is: to 1, kernels run in
numpy, unless there is a CUDA device to compile them for or the environment says otherwise.

pytest runs with `--import-mode=importlib`, which puts no test folder on `sys.path`; a helper that tests import by name
is therefore loaded here, once, before any test module.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

HELPERS = (
    "kernels/row_invariance.py",
    "kernels/devices.py",
    "kernels/native_rows.py",
    "engine/small.py",
    "engine/naive_lookup.py",
    "engine/naive.py",
    "engine/vendor.py",
    "engine/twins.py",
    "engine/automaton.py",
    "engine/mixed.py",
    "engine/gguf_files.py",
    "policy/recorded_calls.py",
    "policy/loaded.py",
    "policy/calls/bad_inputs.py",
    "policy/calls/byte_tokenizer.py",
    "policy/drafts/peft_adapters.py",
    "policy/made_errors.py",
    "policy/schemas_at_random.py",
    "integrations/server/served.py",
    "integrations/training/taught_base.py",
    "integrations/workload/made_calls.py",
    "integrations/remote/scripted.py",
    "remote/servers.py",
    "integrations/ray_serve/local_replicas.py",
    "frameworks/environments.py",
    "browser/in_chromium.py",
)

collect_ignore = [] if find_spec("ray") else ["cluster"]
"""Tests whose modules import what the default environment does not have; `make test-cluster` collects them."""


def _share(path: Path) -> None:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)


torch.set_num_threads(1)
os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")
for helper in HELPERS:
    _share(Path(__file__).parent / helper)

from devices import short_parts as short_parts  # noqa: E402
from loaded import folder as folder  # noqa: E402
from loaded import fresh as fresh  # noqa: E402
from loaded import reference as reference  # noqa: E402
from loaded import spans as spans  # noqa: E402
from recorded_calls import engine as engine  # noqa: E402
from recorded_calls import recorded as recorded  # noqa: E402


@pytest.fixture(autouse=True)
def no_kept_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's machine once measured decides no test: the package's table knows no cost of passes."""
    monkeypatch.setattr("trimode.policy.calls.engine.known_cost", lambda *_: None)
