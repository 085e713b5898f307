"""What is asked of a server: one call in words, before it is written in the words of one API.

Knows messages, tools, constraints and sampling. Does not know bodies, paths or pools.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trimode.engine.request import Sampling
from trimode.engine.result import Mode

from .scoring import Scored

Form = Literal["json", "regex", "choice", "lark"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What the output is held to. `given`: a JSON Schema, a pattern, options or a grammar, as `form` says.

    `compiled`: what our own grammar engine takes for it: a document, or for
    other forms a grammar in Lark. `checked`: whether keywords
    that the server does not keep may be left out, because the finished output is validated.
    """

    form: Form
    given: Any
    compiled: Any = None
    checked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Turning:
    """The tools of a turn: `choice` as OpenAI's API has it, and whether there may be several calls."""

    choice: str | Mapping[str, Any]
    parallel: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRequest:
    """One call. `prompt`, `prompt_ids` and `messages`: one of them. `mode`: that of the plan, which chooses the pool;
    `knobs`: its options as the plan has them. `said`: names of the settings that the caller gave.

    `scoring`: what is scored instead of writing; `max_tokens` is then 0.
    `exact`: no approximate mode may serve it. `max_seconds`: an unconstrained output is ended then. `turn`: None for
    calls that are no turn. `prefer`: pool to begin with, empty for the first of the mode.
    """

    mode: Mode
    sampling: Sampling
    max_tokens: int
    messages: tuple[Mapping[str, Any], ...] = ()
    prompt: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    continued: bool = False
    tools: tuple[Mapping[str, Any], ...] = ()
    turn: Turning | None = None
    constraint: Constraint | None = None
    stop: tuple[str, ...] = ()
    thinking: int | None = None
    knobs: Mapping[str, Any] = field(default_factory=dict)
    said: frozenset[str] = frozenset()
    exact: bool = True
    max_seconds: float | None = None
    step: str = ""
    kind: str = ""
    streamed: bool = False
    scoring: tuple[Scored, ...] = ()

    @property
    def held(self) -> bool:
        """Whether a constraint, or the calls of a turn, are validated."""
        return self.constraint is not None or (self.turn is not None and bool(self.tools))

    def document(self) -> dict[str, Any]:
        """The request as JSON, of which records keep a digest, and the whole where they keep content."""
        sampling = self.sampling
        found: dict[str, Any] = {
            "messages": [dict(message) for message in self.messages] or None,
            "prompt": self.prompt,
            "prompt_ids": None if self.prompt_ids is None else list(self.prompt_ids),
            "continued": self.continued or None,
            "tools": [dict(tool) for tool in self.tools] or None,
            "tool_choice": None if self.turn is None else self.turn.choice,
            "parallel": None if self.turn is None else self.turn.parallel,
            "form": None if self.constraint is None else self.constraint.form,
            "constraint": None if self.constraint is None else self.constraint.given,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "max_tokens": self.max_tokens,
            "stop": list(self.stop) or None,
            "thinking": self.thinking,
            "scoring": [one.document() for one in self.scoring] or None,
        }
        return {key: value for key, value in found.items() if value is not None}
