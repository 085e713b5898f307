"""Functions that a lower layer offers and a higher one provides, by name: an empty table until the front door fills it.

Knows names. Does not know what is behind them: `trimode/__init__.py`, which may import every layer, enters a module and
a function for each name, and the module is imported when the function is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from .errors import TrimodeError

_PROVIDED: dict[str, tuple[str, str]] = {}


class NothingConnected(TrimodeError):
    """No module provides what was asked for, because the front door was not imported or lacks it."""


def provide(name: str, module: str, function: str) -> None:
    """Enters the function that serves `name`; a later entry replaces an earlier one."""
    _PROVIDED[name] = module, function


def provided(name: str) -> Callable[..., Any]:
    """Returns the function that serves `name`. Raises NothingConnected where there is none."""
    if name not in _PROVIDED:
        raise NothingConnected(f"nothing provides {name!r}; import trimode, whose front door enters what does")
    module, function = _PROVIDED[name]
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found
