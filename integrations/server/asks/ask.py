"""What a caller asks for, in the words of no API: the hand-off from every API's request to the runner.

Knows messages, tools, settings and who asks. Does not know HTTP or the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from opentelemetry.context import Context

from trimode.policy.audit import ServedBy

ToolChoice = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks. `tenant`: the holder of the API key, "" without keys. `session`: the name under which the audit keeps
    the caller's session; None if the request names none. `trace`: the parent of the call's spans.
    `served`: the replica that serves the request, where several do."""

    tenant: str = ""
    session: str | None = None
    trace: Context | None = None
    request: str = ""
    served: ServedBy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyAsked:
    """What the request says of decoding. `kind`: of step; None infers it. `step`: its name, by which policies and the
    audit know it. `policy`: one that the server has, by name. `settings`: options of a call, such as mode."""

    kind: str | None = None
    step: str | None = None
    policy: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request. Exactly one of `messages`, `prompt` and `prompt_ids` is set; `suffix` asks for an infill.

    `choice`: whether tools are called; `named`: the tool that has to be. `schema`: what the output is held to.
    `settings`: sampling and limits, as options of a call. `n`: how many outputs, with seeds one after another.
    `top_logprobs`: alternatives for each token; None for no log-probabilities at all. `notes`: what was left out of the
    request. `fits`: lower the number of output tokens to what the context leaves, with a note.
    """

    messages: tuple[Mapping[str, Any], ...] | None = None
    prompt: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    suffix: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    choice: ToolChoice = "auto"
    named: str | None = None
    parallel: bool = True
    schema: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    policy: PolicyAsked = field(default_factory=PolicyAsked)
    caller: Caller = field(default_factory=Caller)
    n: int = 1
    stream: bool = False
    top_logprobs: int | None = None
    logit_bias: Mapping[int, float] | None = None
    notes: tuple[str, ...] = ()
    fits: bool = False
