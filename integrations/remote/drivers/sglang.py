"""The driver of SGLang's server.

Knows the documented fields of SGLang 0.5.23, which has no build for CPUs: it was tested against a server that speaks
them, not against SGLang. Raw prompts and token ids go to its own `/generate`, whose `meta_info` counts drafts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

from trimode.policy.audit import Reported
from trimode.policy.remote import Capabilities, Constraint, Dialect, RemoteRequest

from ..admission import PoolAdmission
from ..transport.client import Client
from .openai import TABLE, Driver, Sent
from .reader import AnswerReader, count, seconds, usage_of

XGRAMMAR: Final = Dialect(
    name="SGLang (xgrammar)",
    forms=frozenset({"json", "regex", "choice"}),
    keywords=frozenset({
        "type", "enum", "const", "properties", "required", "additionalProperties", "items", "prefixItems", "anyOf",
        "oneOf", "$ref", "pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum",
        "exclusiveMaximum", "minItems", "maxItems",
    }),
    types=dict.fromkeys(
        ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), frozenset({"integer", "number"})
    ),
)  # fmt: skip
"""What xgrammar 0.2 reads of a schema; it ignores the rest with a warning in its log."""
NOTHING: Final = Dialect(name="SGLang's diffusion")
GENERATE: Final = "/generate"


class SglangDriver(Driver):
    """SGLang."""

    kind: ClassVar[str] = "sglang"
    dialect: ClassVar[Dialect] = XGRAMMAR
    table: ClassVar[dict[str, Any]] = {
        "seeds": "best effort",
        "logprobs": True,
        "acceptance": "aggregate",
        "exactness": "greedy",
        "tool_steps": "template",
        "turns": True,
        "prompt_ids": True,
        "raw_constraints": True,
        "parameters": frozenset({"seed", "top_k", "continue_final_message"}),
        "table": TABLE,
        "contract_only": True,
    }

    async def more(self, client: Client, about: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {"context": count(about, "max_model_len")}
        told = await client.get("/get_server_info")
        if isinstance(told, dict):
            found |= {"version": _text(told.get("version")), "method": _method(told), "read": ("/get_server_info",)}
        return found

    def fitted(self, can: Capabilities) -> Capabilities:
        """Returns the capabilities of what this pool runs: diffusion and UNO refuse or ignore grammars."""
        if can.modes == ("diffusion",):
            return replace(can, dialect=NOTHING, seeds="none", exactness="not promised", logprobs=False)
        return replace(can, dialect=NOTHING, logprobs=False) if can.method == "uno" else can

    def written(self, request: RemoteRequest, can: Capabilities, admission: PoolAdmission) -> Sent:
        if request.messages:
            return super().written(request, can, admission)
        given = request.sampling
        sampling = {
            "temperature": given.temperature, "top_p": given.top_p, "top_k": given.top_k or -1, "min_p": 0.0,
            "max_new_tokens": request.max_tokens, "sampling_seed": given.seed, "stop": list(request.stop) or None,
            **self._native(admission.constraint),
        }  # fmt: skip
        prompt = {"text": request.prompt} if request.prompt_ids is None else {"input_ids": list(request.prompt_ids)}
        sent = {key: value for key, value in sampling.items() if value is not None}
        return Sent(GENERATE, {**prompt, "sampling_params": sent, "stream": True})

    def sampling(self, request: RemoteRequest, can: Capabilities) -> dict[str, Any]:
        found = super().sampling(request, can)
        return {**found, "top_k": request.sampling.top_k or -1, "min_p": 0.0, "repetition_penalty": 1.0}

    def constrained(self, constraint: Constraint | None, can: Capabilities) -> dict[str, Any]:
        if constraint is not None and constraint.form == "regex":
            return {"regex": constraint.given}
        return super().constrained(constraint, can)

    def continued(self) -> dict[str, Any]:
        return {"continue_final_message": True}

    def reader(self, pool: str, request: RemoteRequest) -> AnswerReader:
        return super().reader(pool, request) if request.messages else GenerateReader(pool)

    def reported(self, reader: AnswerReader) -> Reported:
        told = reader.extra.get("meta_info", {})
        usage, proposed = usage_of(reader.usage), count(told, "spec_num_proposed_drafts")
        return replace(
            usage,
            prompt_tokens=_first(usage.prompt_tokens, count(told, "prompt_tokens")),
            output_tokens=_first(usage.output_tokens, count(told, "completion_tokens")),
            cached_tokens=_first(usage.cached_tokens, count(told, "cached_tokens")),
            drafted=_first(proposed, count(told, "spec_draft_token_num")),
            accepted=_first(count(told, "spec_num_correct_drafts"), count(told, "spec_accept_token_num")),
            steps=count(told, "spec_verify_ct"),
            server_seconds=seconds(told, "e2e_latency", 1.0),
        )

    @staticmethod
    def _native(constraint: Constraint | None) -> Mapping[str, Any]:
        if constraint is None:
            return {}
        if constraint.form == "regex":
            return {"regex": constraint.given}
        schema = {"enum": constraint.given} if constraint.form == "choice" else constraint.given
        return {"json_schema": json.dumps(schema)}


class GenerateReader(AnswerReader):
    """The stream of `/generate`, each event of which has the whole text so far."""

    def feed(self, event: Any) -> bool:
        if isinstance(event, dict) and isinstance(event.get("text"), str):
            told = event.get("meta_info") or {}
            ended = told.get("finish_reason")
            kind = ended.get("type") if isinstance(ended, Mapping) else ended
            new = event["text"][len(self.text) :]
            choice = {"index": 0, "text": new, "finish_reason": kind}
            return AnswerReader.feed(self, {"id": told.get("id"), "choices": [choice], "meta_info": told})
        return AnswerReader.feed(self, event)


def _method(told: Mapping[str, Any]) -> str:
    """Returns how the server decodes, by its launch arguments."""
    if told.get("dllm_algorithm"):
        return "diffusion"
    name = str(told.get("speculative_algorithm") or "").lower()
    known = {
        "eagle": "eagle",
        "eagle3": "eagle3",
        "nextn": "mtp",
        "standalone": "draft",
        "ngram": "ngram",
        "uno": "uno",
    }
    return known.get(name, "draft" if name else "ar")


def _first(one: int | None, other: int | None) -> int | None:
    return other if one is None else one


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
