"""Whether a server keeps a form of constraint: it is asked for one random value that no model can guess.

Knows forms and answers. Does not know transport. A server that ignores a constraint says so nowhere; what it answers to
this does.
"""

from __future__ import annotations

import json
from secrets import randbelow
from typing import Any, Final

from trimode.engine.request import Sampling
from trimode.policy.remote import Capabilities, Constraint, RemoteAnswer, RemoteRequest

from .admission import PoolAdmission

TOKENS: Final = 96
"""Output tokens of a probe: enough for its value byte by byte, and a call around it."""
_ASK: Final = "Say hello."
TOOLS: Final = "tools"


def form_of(request: RemoteRequest, admission: PoolAdmission, can: Capabilities) -> str | None:
    """Returns the form that has to be kept for a request; None where nothing is, as for free turns."""
    if admission.constraint is None or request.turn is not None:
        return None if admission.constraint is None else admission.constraint.form
    return TOOLS if request.kind == "tool_call" and can.tool_steps == "native" else admission.constraint.form


def probe_of(form: str, can: Capabilities) -> tuple[RemoteRequest, Any]:
    """Returns a request and the only answer to it that keeps the constraint."""
    value = f"zq{randbelow(10**6):06d}"
    tools: tuple[dict[str, Any], ...] = ()
    if form == TOOLS:
        properties = {"code": {"type": "string", "enum": [value]}}
        closed = {"type": "object", "properties": properties, "required": ["code"], "additionalProperties": False}
        tools = ({"name": "report", "description": "Reports a code.", "parameters": closed},)
    return (
        RemoteRequest(
            mode=can.modes[0],
            sampling=Sampling(),
            max_tokens=TOKENS,
            messages=({"role": "user", "content": _ASK},),
            tools=tools,
            constraint=_constraint(form, value),
            kind="tool_call" if tools else "json",
        ),
        {"name": "report", "arguments": {"code": value}} if tools else value,
    )


def probe_answer(form: str, answer: RemoteAnswer) -> Any:
    """Returns the value in an answer; None for one that has none."""
    if form in ("json", TOOLS):
        try:
            return json.loads(answer.text)
        except ValueError:
            return None
    return answer.text


def _constraint(form: str, value: str) -> Constraint:
    lark = f"start: {json.dumps(value)}"
    if form in ("json", TOOLS):
        document = {"type": "string", "enum": [value]}
        return Constraint(form="json", given=document, compiled=document)
    if form == "regex":
        return Constraint(form="regex", given=value, compiled=lark)
    return (
        Constraint(form="choice", given=[value], compiled=lark)
        if form == "choice"
        else Constraint(form="lark", given=lark, compiled=lark)
    )
