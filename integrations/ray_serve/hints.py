"""What the door knows of a request before it is decoded: its session, its priority, the length of its output.

Knows asks and finished outputs. Does not know replicas. The length of a step's output is learned from the outputs of
that step which came through this door; until then it is the limit that the request sets.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ..server.asks.ask import Ask
from ..server.wire.common import DEFAULT_TOKENS

_MEMORY: Final = 0.8
"""Weight of the past in the mean length of a step's outputs."""
_STEPS: Final = 1024
"""Steps whose lengths are kept; the one unused for longest is forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What a router may look at. `expected`: output tokens, of all choices. `priority`: 1 for requests with a deadline,
    which leave a busy home sooner, else 0. `avoid`: replicas that were lost with this request."""

    session: str = ""
    priority: int = 0
    expected: int = 0
    avoid: tuple[str, ...] = ()


@dataclass(slots=True)
class Lengths:
    """Mean numbers of output tokens by step."""

    _means: OrderedDict[str, float] = field(default_factory=OrderedDict)

    def expected(self, ask: Ask) -> int:
        """Returns how many tokens all outputs of the ask will likely have: at least one each."""
        limit: int = {**ask.settings, **ask.policy.settings}.get("max_tokens", DEFAULT_TOKENS)
        mean = self._means.get(_step(ask), limit)
        return ask.n * max(1, min(round(mean), limit))

    def learn(self, ask: Ask, tokens: int) -> None:
        """Adds the length of one output."""
        name = _step(ask)
        self._means[name] = _MEMORY * self._means.get(name, tokens) + (1 - _MEMORY) * tokens
        self._means.move_to_end(name)
        if len(self._means) > _STEPS:
            self._means.popitem(last=False)


def hints_of(asks: Sequence[Ask], lengths: Lengths) -> Hints:
    """Returns the hints of one request."""
    caller, urgent = asks[0].caller, any("deadline" in ask.policy.settings for ask in asks)
    return Hints(
        session="" if caller.session is None else f"{caller.tenant}\n{caller.session}",
        priority=int(urgent),
        expected=sum(lengths.expected(ask) for ask in asks),
    )


def _step(ask: Ask) -> str:
    """Returns the name under which lengths of outputs are alike: the step, or else the kind of the request."""
    if ask.policy.step is not None:
        return f"step {ask.policy.step}"
    shape = "schema" if ask.schema is not None else "tools" if ask.tools else "text"
    return f"kind {ask.policy.kind or shape}"
