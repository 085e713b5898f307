"""What a pool's server can do and promise, and where that is known from.

Knows names. Does not know how a server is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trimode.engine.result import Mode

from .dialect import Dialect

Exactness = Literal["same tokens", "greedy", "not promised"]
"""same tokens: every exact mode returns the same tokens for a seed, at any temperature, as engines here do; greedy: at
temperature 0 speculation changes no token but for rounding; not promised: neither."""
Seeds = Literal["replay", "best effort", "none"]
"""replay: the same request and seed return the same text, whatever runs beside it."""
Acceptance = Literal["none", "aggregate", "per step", "ids"]
"""What the server says about drafts: nothing, sums, numbers for each step, or the rejected tokens themselves."""
ToolSteps = Literal["native", "template", "message"]
"""How tools reach the model in a step that has to call one: by the server's own calls; by the chat template, beside a
schema; or by a system message of ours, beside a schema, for servers that drop tools or do not constrain calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Of one pool. `modes`: those that it decodes in; several where the mode goes with each request. `version`: as the
    server says, None where it does not. `models`: ids that it serves; `model`: the one that is asked.

    `dialect`: which constraints it keeps; `raw_constraints`: also for raw prompts. `turns`: whether it parses calls
    that the model makes freely. `knobs`: settings of the mode that go with each request. `parameters`: settings of the
    API beside temperature, top_p and stop. `logprobs`: whether it gives those of tokens that it writes; `scores`:
    by what means it gives those of tokens that it is given, empty where by none. `context`: tokens of prompt and
    output, None if unknown. `read`: paths that the server answered, from which `version`, `models`, `modes` and
    `context` are; all else is from the table of
    `table`, a date. `contract_only`: this kind was tested against its documented fields, not against a real server.
    """

    pool: str
    kind: str
    modes: tuple[Mode, ...]
    model: str
    dialect: Dialect
    method: str = ""
    version: str | None = None
    models: tuple[str, ...] = ()
    context: int | None = None
    seeds: Seeds = "best effort"
    logprobs: bool = False
    scores: str = ""
    acceptance: Acceptance = "none"
    exactness: Exactness = "not promised"
    tool_steps: ToolSteps = "message"
    turns: bool = False
    prompt_ids: bool = False
    raw_constraints: bool = False
    thinking: bool = False
    parameters: frozenset[str] = frozenset()
    largest_seed: int = 2**63 - 1
    knobs: frozenset[str] = frozenset()
    read: tuple[str, ...] = ()
    table: str = ""
    contract_only: bool = False
