"""The driver of llama.cpp's server.

Knows b11549 (run, by the xllamacpp wheel). Does not know transport. Its own reading of JSON Schema ignores bounds of
numbers, uniqueItems, multipleOf and more without a word, and some chat templates drop tools. Where it was built with
llguidance, which one small request finds out, grammars of that engine are sent, which is our own: it keeps then what
our admission takes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from trimode.policy.audit import Reported
from trimode.policy.remote import CallRefused, Capabilities, Constraint, Dialect, RemoteRequest

from ..transport.client import Client
from .openai import TABLE, Driver
from .reader import AnswerReader, count, seconds, usage_of
from .token_scores import LlamaCppTokens, TokenScorer

GBNF: Final = Dialect(
    name="llama.cpp's converter of schemas",
    forms=frozenset({"json"}),
    keywords=frozenset({
        "type", "enum", "const", "properties", "required", "additionalProperties", "items", "prefixItems", "anyOf",
        "oneOf", "$ref", "pattern", "format", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum",
        "exclusiveMaximum", "minItems", "maxItems",
    }),
    types=dict.fromkeys(
        ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), frozenset({"integer"})
    ),
    formats=frozenset({"date", "time", "date-time", "uuid"}),
    alone=frozenset({"anyOf", "oneOf", "$ref", "enum", "const"}),
)  # fmt: skip
"""What json-schema-to-grammar keeps; a build without llguidance uses it."""
LLGUIDANCE: Final = Dialect(name="llguidance", forms=frozenset({"json", "regex", "choice", "lark"}))
_CANONICAL: Final = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
_TRY: Final = '%llguidance {}\nstart: "ok"\n'


class LlamaCppDriver(Driver):
    """llama.cpp's server."""

    kind: ClassVar[str] = "llamacpp"
    dialect: ClassVar[Dialect] = GBNF
    scorer: ClassVar[TokenScorer | None] = LlamaCppTokens()
    max_tokens: ClassVar[str] = "max_tokens"
    table: ClassVar[dict[str, Any]] = {
        "seeds": "best effort",
        "logprobs": True,
        "acceptance": "aggregate",
        "exactness": "greedy",
        "tool_steps": "message",
        "turns": True,
        "prompt_ids": True,
        "raw_constraints": True,
        "parameters": frozenset({"seed", "top_k", "logit_bias", "continue_final_message"}),
        "largest_seed": 2**32 - 2,
        "table": TABLE,
    }

    async def more(self, client: Client, about: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {"read": ["/props"]}
        props = await client.get("/props")
        if isinstance(props, dict):
            settings = props.get("default_generation_settings") or {}
            found["context"] = count(settings, "n_ctx")
            found["version"] = props.get("build_info") if isinstance(props.get("build_info"), str) else None
            found["method"] = _method(settings.get("params") or {})
        if await self._has_llguidance(client, about):
            found["dialect"] = LLGUIDANCE
            found["read"].append("/v1/completions")
        return {**found, "read": tuple(found["read"])}

    @staticmethod
    async def _has_llguidance(client: Client, about: dict[str, Any]) -> bool:
        body = {"model": about.get("id"), "prompt": "a", "max_tokens": 4, "temperature": 0, "grammar": _TRY}
        try:
            found = await client.post("/v1/completions", body)
        except CallRefused:
            return False
        choices: Sequence[Any] = found.get("choices") or () if isinstance(found, dict) else ()
        return bool(choices) and choices[0].get("text") == "ok"

    def sampling(self, request: RemoteRequest, can: Capabilities) -> dict[str, Any]:
        found = super().sampling(request, can)
        if biases := found.pop("logit_bias", None):
            found["logit_bias"] = [[int(token), bias] for token, bias in biases.items()]
        # Its own defaults filter: min_p 0.05, typical_p and penalties may be set at launch.
        return {**found, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0, "cache_prompt": True}

    def constrained(self, constraint: Constraint | None, can: Capabilities) -> dict[str, Any]:
        if constraint is None:
            return {}
        if can.dialect is not LLGUIDANCE:
            return super().constrained(constraint, can)
        return {"grammar": f"%llguidance {{}}\n{_lark(constraint)}"}

    def reported(self, reader: AnswerReader) -> Reported:
        timings = reader.extra.get("timings", {})
        prompt, written = seconds(timings, "prompt_ms"), seconds(timings, "predicted_ms")
        usage = usage_of(reader.usage)
        return replace(
            usage,
            cached_tokens=usage.cached_tokens if usage.cached_tokens is not None else count(timings, "cache_n"),
            drafted=count(timings, "draft_n"),
            accepted=count(timings, "draft_n_accepted"),
            server_seconds=None if prompt is None or written is None else prompt + written,
            prefill_seconds=prompt,
        )


def _method(params: dict[str, Any]) -> str:
    """Returns how the server drafts: `speculative.types` is "none", or names of kinds."""
    told = str(params.get("speculative.types") or "none")
    for word, method in (("eagle3", "eagle3"), ("mtp", "mtp"), ("dflash", "dflash"), ("ngram", "ngram")):
        if word in told:
            return method
    return "ar" if told == "none" else "draft"


def _lark(constraint: Constraint) -> str:
    """Returns the constraint as a grammar of llguidance, which writes JSON in one canonical way."""
    if constraint.form != "json":
        return f"{constraint.compiled}\n"
    schema = json.dumps({"x-guidance": _CANONICAL, **constraint.given}, ensure_ascii=False)
    return f"start: %json {schema}\n"
