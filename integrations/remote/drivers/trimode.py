"""The driver of `trimode serve`, which keeps everywhere what an engine in the process keeps.

Knows the server's extensions of OpenAI's API: the field `trimode` of requests and answers. Does not know transport.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Final

from trimode.engine.result import Mode
from trimode.policy.audit import Reported
from trimode.policy.remote import Capabilities, Constraint, Dialect, RemoteRequest

from ..admission import PoolAdmission
from ..transport.client import Client
from .openai import CHAT, TABLE, Driver, Sent, json_format
from .reader import AnswerReader, count, usage_of
from .token_scores import ForcedTokens, TokenScorer

OURS: Final = Dialect(name="trimode", forms=frozenset({"json"}))
MODES: Final[tuple[Mode, ...]] = ("ar", "linear_spec", "quadratic_spec", "lookup_spec", "diffusion")


class TrimodeDriver(Driver):
    """`trimode serve`."""

    kind: ClassVar[str] = "trimode"
    dialect: ClassVar[Dialect] = OURS
    scorer: ClassVar[TokenScorer | None] = ForcedTokens()
    table: ClassVar[dict[str, Any]] = {
        "seeds": "replay",
        "logprobs": True,
        "acceptance": "aggregate",
        "exactness": "same tokens",
        "tool_steps": "native",
        "turns": True,
        "parameters": frozenset({"seed", "top_k", "logit_bias"}),
        "largest_seed": 2**64 - 1,
        "knobs": frozenset({"block_length", "threshold", "rows", "min_match"}),
        "table": TABLE,
    }

    async def more(self, client: Client, about: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        return {"context": count(about, "max_model_len"), "modes": MODES}

    def written(self, request: RemoteRequest, can: Capabilities, admission: PoolAdmission) -> Sent:
        sent = super().written(request, can, admission)
        if sent.path != CHAT:
            return sent
        asked = {"mode": request.mode, "step": request.step, **request.knobs}
        return Sent(sent.path, {**sent.body, "trimode": {key: value for key, value in asked.items() if value}})

    def constrained(self, constraint: Constraint | None, can: Capabilities) -> dict[str, Any]:  # noqa: ARG002
        if constraint is None:
            return {}
        return json_format({"enum": constraint.given} if constraint.form == "choice" else constraint.given)

    def reported(self, reader: AnswerReader) -> Reported:
        told = reader.extra.get("trimode", {})
        return replace(
            usage_of(reader.usage),
            drafted=count(told, "drafted"),
            accepted=count(told, "accepted"),
            forward_passes=count(told, "passes"),
        )
