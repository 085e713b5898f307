"""What frameworks are told of a call besides its output: how it was decoded, and why it ended.

Knows results. Does not know frameworks, which put these facts where they keep what a provider says.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from trimode.policy.calls import Result

PROVIDER: Final = "trimode"
"""Name of the provider in frameworks' messages and spans."""
Ending = Literal["stop", "length", "tool_calls"]


def ending_of(result: Result) -> Ending:
    """Returns why the turn ended, in OpenAI's words."""
    if result.finish_reason == "length":
        return "length"
    return "tool_calls" if result.calls else "stop"


def facts_of(result: Result) -> dict[str, Any]:
    """Returns step, mode, counts of drafts, guarantee and notes, as JSON values.

    `acceptance` is accepted / drafted, None where nothing was drafted; `modes`: all modes, in order of use.
    """
    stats, plan = result.stats, result.plan
    modes = list(dict.fromkeys(round_.mode for round_ in result.trace))
    return {
        "step": plan.context.name,
        "kind": plan.context.kind,
        "mode": modes[0] if modes else plan.mode,
        "modes": modes,
        "reason": plan.reason,
        "drafted": stats.drafted,
        "accepted": stats.accepted,
        "rejected": stats.rejected,
        "acceptance": stats.accepted / stats.drafted if stats.drafted else None,
        "forward_passes": stats.forward_passes,
        "guarantee": result.guarantee,
        "notes": list(result.notes),
        "audit_id": result.audit_id,
    }
