"""The driver of vLLM's OpenAI server.

Knows vLLM 0.32 (its CPU build was run) and what 0.33 adds. Does not know transport. With the backend "auto", schemas
that xgrammar would not keep are given to llguidance by vLLM itself; keywords that neither refuses and xgrammar does not
read are left out of the dialect.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Final

from trimode.policy.audit import Reported
from trimode.policy.remote import Capabilities, Constraint, Dialect, RemoteRequest

from ..transport.client import Client
from .openai import TABLE, Driver
from .reader import AnswerReader, count, counts, seconds, usage_of
from .token_scores import PromptLogprobs, TokenScorer

_NUMBERS: Final = frozenset({"integer", "number"})
AUTO: Final = Dialect(
    name="vLLM",
    forms=frozenset({"json", "regex", "choice", "lark"}),
    keywords=frozenset({
        "type", "enum", "const", "properties", "required", "additionalProperties", "items", "prefixItems", "anyOf",
        "oneOf", "allOf", "$ref", "pattern", "format", "minLength", "maxLength", "minimum", "maximum",
        "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "uniqueItems", "contains",
        "minContains", "maxContains", "minProperties", "maxProperties", "patternProperties", "propertyNames",
    }),
    types={
        "multipleOf": _NUMBERS, "uniqueItems": frozenset({"array"}), "contains": frozenset({"array"}),
        "format": frozenset({"string"}), "patternProperties": frozenset({"object"}),
        "propertyNames": frozenset({"object"}),
    },
)  # fmt: skip
"""What vLLM 0.32 keeps under the backend "auto": what it looks for before it gives a schema to xgrammar, and what
xgrammar 0.2 reads."""
NOTHING: Final = Dialect(name="vLLM's diffusion")
_DIFFUSION: Final = {"block_length": "diffusion_canvas_length"}


class VllmDriver(Driver):
    """vLLM."""

    kind: ClassVar[str] = "vllm"
    dialect: ClassVar[Dialect] = AUTO
    scorer: ClassVar[TokenScorer | None] = PromptLogprobs()
    table: ClassVar[dict[str, Any]] = {
        "seeds": "best effort",
        "logprobs": True,
        "acceptance": "per step",
        "exactness": "greedy",
        "tool_steps": "template",
        "turns": True,
        "prompt_ids": True,
        "raw_constraints": True,
        "thinking": True,
        "parameters": frozenset({"seed", "top_k", "logit_bias", "continue_final_message", "max_thinking_tokens"}),
        "table": TABLE,
    }

    async def more(self, client: Client, about: dict[str, Any]) -> dict[str, Any]:
        told, read = await client.get("/version"), list[str]()
        found: dict[str, Any] = {}
        if isinstance(told, dict) and isinstance(told.get("version"), str):
            found["version"] = told["version"]
            read.append("/version")
        length = count(about, "max_model_len")
        return {**found, "context": length, "read": tuple(read)}

    def fitted(self, can: Capabilities) -> Capabilities:
        """Returns the capabilities of a diffusion pool, which refuses structured outputs, seeds and temperatures."""
        if can.modes != ("diffusion",):
            return can
        knobs = frozenset(_DIFFUSION) if _newer(can.version, (0, 33)) else frozenset[str]()
        return replace(
            can,
            dialect=NOTHING,
            seeds="none",
            exactness="not promised",
            knobs=knobs,
            parameters=frozenset(),
            logprobs=False,
            scores="",
        )

    def sampling(self, request: RemoteRequest, can: Capabilities) -> dict[str, Any]:
        found = super().sampling(request, can)
        if can.modes == ("diffusion",):
            found = {}
            knobs = {_DIFFUSION[name]: value for name, value in request.knobs.items() if name in can.knobs}
            return {"vllm_xargs": knobs} if knobs else {}
        # A model's generation_config.json may set these too.
        return {**found, "min_p": 0.0, "repetition_penalty": 1.0}

    def constrained(self, constraint: Constraint | None, can: Capabilities) -> dict[str, Any]:  # noqa: ARG002
        if constraint is None:
            return {}
        names = {"json": "json", "regex": "regex", "choice": "choice", "lark": "grammar"}
        return {"structured_outputs": {names[constraint.form]: constraint.given}}

    def continued(self) -> dict[str, Any]:
        return {"continue_final_message": True, "add_generation_prompt": False}

    def thinking(self, budget: int) -> dict[str, Any]:
        return {"thinking_token_budget": budget, "chat_template_kwargs": {"enable_thinking": True}}

    def option(self, text: str) -> str:
        return text

    def reported(self, reader: AnswerReader) -> Reported:
        metrics = reader.extra.get("metrics", {})
        drafts = metrics.get("speculative_decoding") or {}
        return replace(
            usage_of(reader.usage),
            drafted=count(drafts, "num_draft_tokens"),
            accepted=count(drafts, "num_accepted_draft_tokens"),
            steps=count(drafts, "num_spec_steps"),
            drafted_per_step=counts(drafts, "per_step_drafted"),
            accepted_per_step=counts(drafts, "per_step_accepted"),
            server_seconds=seconds(metrics, "generation_time_ms"),
            prefill_seconds=seconds(metrics, "time_to_first_token_ms"),
        )


def _newer(version: str | None, least: tuple[int, int]) -> bool:
    parts = (version or "").split(".")[:2]
    return len(parts) == 2 and all(part.isdecimal() for part in parts) and tuple(map(int, parts)) >= least
