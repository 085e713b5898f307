"""`trimode doctor`: what runs on this machine and why: device, threads, kernels, versions, cost of a pass, cache.

Knows how to query each layer. Does not decide or repair anything.
"""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from .console import Checkpoint, console

if TYPE_CHECKING:
    from trimode.policy.selection import CostModel

ROUNDED: Final = ("native-bf16", "native-int8")
"""Kernels that round rows."""
PACKAGES: Final = (
    "trimode", "torch", "transformers", "tokenizers", "safetensors", "llguidance", "pydantic", "jsonschema",
    "opentelemetry-sdk", "triton", "gguf", "matplotlib",
)  # fmt: skip


def doctor(
    checkpoint: Checkpoint = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    kernels: Annotated[str, typer.Option(help="As of Engine.load: auto, native, native-int8, torch, ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Prints what runs here and why: device, torch, threads, kernels, triton, versions, seconds a pass."""
    found = examined(checkpoint, device, kernels)
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        for key, part in value.items() if isinstance(value, dict) else (("", value),):
            console.print(f"{name + ' ' + key if key else name:34} {part}", highlight=False, markup=False)


def examined(checkpoint: str | None, device: str, kernels: str) -> dict[str, Any]:
    """Returns names and values, nested one level at most."""
    import torch

    from trimode.engine.errors import RowsDisagree
    from trimode.kernels.ops import cache_folder
    from trimode.policy.calls import Engine

    try:
        engine = Engine.load(checkpoint, device=device, kernels=kernels)
        exactness = engine.runtime.exactness
    except RowsDisagree as error:
        # The rest is still reported, with kernels that load everywhere.
        engine = Engine.load(checkpoint, device=device, kernels="torch-fast")
        exactness = f"refused: {error}"
    cost = engine.cost
    passes = {f"{rows:.0f} rows": _milliseconds(cost, rows) for rows in cost.plain.rows}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(engine.tokens.device),
        "dtype": str(engine.tokens.dtype).removeprefix("torch."),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "not available",
        "torch build": (torch.version.cuda and f"CUDA {torch.version.cuda}") or "CPU",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "kernels": engine.kernels,
        "exactness": exactness,
        **{name: _rounded_products(name) for name in ROUNDED},
        "graphs": engine.graphs,
        "memory": {name: f"{size / 2**20:.1f} MiB" for name, size in engine.tokens.memory.parts.items()},
        "triton": "yes" if find_spec("triton") else "no",
        "checkpoint": engine.checkpoint.name,
        "modes": " ".join(engine.tokens.model.config.modes),
        "cache": str(cache_folder()),
        "pass": passes,
        "learned": f"{engine.auto.learned.calls} calls of policy 'auto'",
        "version": {package: _version(package) for package in PACKAGES},
    }


def _rounded_products(name: str) -> str:
    """Returns whether kernels that round rows, which "auto" never selects, can run here."""
    import torch

    from trimode.kernels import ops

    try:
        ops.kernels(torch.device("cpu"), torch.float32, name)
    except ops.NativeUnavailable as error:
        return f"cannot run here: {error}"
    return "can run here"


def _milliseconds(cost: CostModel, rows: float) -> str:
    plain, adapted = (f"{1e3 * cost.seconds(rows, adapter=adapter):.3g} ms" for adapter in (False, True))
    return f"{plain}, with the adapter {adapted}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
