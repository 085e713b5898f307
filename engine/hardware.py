"""Devices by name, and what arithmetic on them depends on. Knows torch. Does not know models."""

from __future__ import annotations

import platform

import torch

from .errors import RequestError


def device_of(name: str) -> torch.device:
    """Returns the device of that name. Raises RequestError if it cannot be used here."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise RequestError(f"device={name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def hardware_of(device: torch.device) -> str:
    """Returns what arithmetic on `device` depends on besides software: `x86_64 AVX512`, or the accelerator's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
