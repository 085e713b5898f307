"""How each request of a pydantic-ai run decodes, chosen from what is known of the run: `SelectDecoding`.

Knows pydantic-ai's capabilities and their context of a selection. Does not know how a model decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .core.extras import missing

try:
    from pydantic_ai import ModelSelectionContext
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.models import Model
except ImportError as _absent:
    raise missing("pydantic-ai", _absent) from _absent

from .pydantic_ai import TrimodeModel


@dataclass
class SelectDecoding(AbstractCapability[Any]):
    """A capability of an agent that sets how each of its requests decodes: `Agent(..., capabilities=[...])`.

    `choose` is called before each request with its number, messages, prompt and usage so far, and returns keyword
    arguments of `trimode.using`, `step` and `kind`, such as {"mode": "ar"}.
    """

    model: TrimodeModel
    choose: Callable[[ModelSelectionContext[Any]], Mapping[str, Any]]

    def get_model(self) -> Callable[[ModelSelectionContext[Any]], Model[Any]]:
        """Returns what pydantic-ai asks for a model before each request."""
        return self._selected

    def _selected(self, context: ModelSelectionContext[Any]) -> Model[Any]:
        return self.model.decoding(**self.choose(context))
