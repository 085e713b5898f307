"""The engine of an adapter that was given none, and the error for an SDK that is not installed.

Knows `Engine.load`. Does not know frameworks.
"""

from __future__ import annotations

from functools import lru_cache

from trimode.policy.calls import Engine


@lru_cache(maxsize=4)
def loaded(model: str | None = None) -> Engine:
    """Returns the engine of a checkpoint (None: the bundled one) on the CPU, loaded once a process."""
    return Engine.load(model)


def engine_of(source: Engine | str | None) -> Engine:
    """Returns an engine as it is, or that of the checkpoint `source`."""
    return source if isinstance(source, Engine) else loaded(source)


def missing(extra: str, error: ImportError) -> ImportError:
    """Returns the error for an adapter whose SDK cannot be imported; `extra`: what to install it with."""
    return ImportError(
        f"{error}; this adapter needs an SDK of its own: pip install 'trimode[{extra}]'", name=error.name
    )
