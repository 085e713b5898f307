"""What can be wrong with a training run. Knows nothing else."""

from __future__ import annotations

from trimode.engine.errors import TrimodeError


class TrainingError(TrimodeError):
    """A run cannot begin or go on as asked; the message says what to change."""


class DataError(TrainingError):
    """A data file holds something that is no training text; the message names file and line."""
