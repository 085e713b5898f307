"""The driver of OpenAI's API, which the drivers of other servers change where those differ.

Knows `/v1/models`, `/v1/chat/completions` and `/v1/completions`, and OpenAI's strict schemas. Does not know transport.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from trimode.engine.result import Mode
from trimode.policy.audit import Reported
from trimode.policy.remote import (
    METHODS,
    AnswerGarbled,
    CallText,
    Capabilities,
    Constraint,
    Dialect,
    Pool,
    RemoteRequest,
)

from ..admission import PoolAdmission
from ..transport.client import Client
from .messages import api_messages, api_tools, with_tools
from .reader import AnswerReader, usage_of
from .token_scores import TokenScorer

TABLE: Final = "2026-11-29"
"""Date of the tables of what servers do that they do not tell themselves."""
CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
STRICT: Final = Dialect(
    name="OpenAI's strict mode",
    forms=frozenset({"json"}),
    keywords=frozenset({
        "type", "enum", "const", "properties", "required", "additionalProperties", "items", "anyOf", "$ref", "pattern",
        "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems",
    }),
    formats=frozenset({
        "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid",
    }),
    closed=True,
)  # fmt: skip
"""What OpenAI's documentation of structured outputs lists."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it is sent: a path and a body."""

    path: str
    body: dict[str, Any]


class Driver:
    """OpenAI's API, and servers of which no more is known."""

    kind: ClassVar[str] = "openai"
    dialect: ClassVar[Dialect] = STRICT
    max_tokens: ClassVar[str] = "max_completion_tokens"
    table: ClassVar[dict[str, Any]] = {
        "seeds": "best effort",
        "logprobs": True,
        "acceptance": "aggregate",
        "tool_steps": "native",
        "turns": True,
        "parameters": frozenset({"seed", "logit_bias"}),
    }

    scorer: ClassVar[TokenScorer | None] = None

    async def read(self, client: Client, name: str, pool: Pool) -> Capabilities:
        """Asks the server what it is. Raises RemoteError, and AnswerGarbled for one without `/v1/models`."""
        listed = await client.get("/v1/models")
        if not isinstance(listed, dict) or not isinstance(listed.get("data"), list):
            raise AnswerGarbled(name, "/v1/models lists no models")
        models = [one for one in listed["data"] if isinstance(one, dict) and isinstance(one.get("id"), str)]
        ids = tuple(str(one["id"]) for one in models)
        if not ids and pool.model is None:
            raise AnswerGarbled(name, "/v1/models lists no models; pass model=")
        chosen = pool.model or ids[0]
        about = next((one for one in models if one["id"] == chosen), {})
        more = await self.more(client, about)
        method = pool.method or str(more.pop("method", ""))
        read = ("/v1/models", *more.pop("read", ()))
        modes: tuple[Mode, ...] = more.pop("modes", None) or (METHODS[method or "ar"],)
        scores = "" if self.scorer is None else self.scorer.how
        facts: dict[str, Any] = {"dialect": self.dialect, "scores": scores, **self.table, **more}
        return self.fitted(
            Capabilities(
                pool=name, kind=self.kind, modes=modes, model=chosen, method=method, models=ids, read=read, **facts
            )
        )

    async def more(self, client: Client, about: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Returns what else this kind of server tells, as fields of `Capabilities`; `about`: its entry of the model."""
        return {"table": TABLE}

    def written(self, request: RemoteRequest, can: Capabilities, admission: PoolAdmission) -> Sent:
        """Returns the request in the words of the API."""
        body: dict[str, Any] = {
            "model": can.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            self.max_tokens: request.max_tokens,
            **self.sampling(request, can),
        }
        if request.stop:
            body["stop"] = list(request.stop)
        if not request.messages:
            given = request.prompt if request.prompt_ids is None else list(request.prompt_ids)
            body |= {"prompt": given, "max_tokens": body.pop(self.max_tokens)}
            return Sent(COMPLETIONS, body | self.constrained(admission.constraint, can))
        body["messages"] = api_messages(request.messages)
        if request.continued:
            body |= self.continued()
        if request.thinking is not None:
            body |= self.thinking(request.thinking)
        return Sent(CHAT, self.with_tools(body, request, can, admission.constraint))

    def sampling(self, request: RemoteRequest, can: Capabilities) -> dict[str, Any]:
        """Returns the sampling fields. All of ours are sent, because the defaults of servers are not ours."""
        given = request.sampling
        found: dict[str, Any] = {"temperature": given.temperature, "top_p": given.top_p}
        if "seed" in can.parameters:
            found["seed"] = given.seed
        if "top_k" in can.parameters:
            found["top_k"] = given.top_k
        if given.logit_bias:
            found["logit_bias"] = {str(token): bias for token, bias in given.logit_bias}
        return found

    def with_tools(
        self, body: dict[str, Any], request: RemoteRequest, can: Capabilities, constraint: Constraint | None
    ) -> dict[str, Any]:
        """Returns the body with tools and what constrains the output."""
        if request.turn is not None:
            body |= self.constrained(constraint, can) | self._turn(request)
            return body
        one_call = request.kind == "tool_call"
        if one_call and can.tool_steps == "native":
            strict = [{**tool, "strict": True} for tool in request.tools]
            return body | {"tools": api_tools(strict), "tool_choice": "required", "parallel_tool_calls": False}
        if request.tools and can.tool_steps == "template":
            body |= {"tools": api_tools(request.tools), "tool_choice": "none"}
        elif request.tools:
            body["messages"] = with_tools(body["messages"], request.tools, one_call)
        return body | self.constrained(constraint, can)

    def constrained(self, constraint: Constraint | None, can: Capabilities) -> dict[str, Any]:  # noqa: ARG002
        """Returns the fields of a constraint that the pool's dialect has."""
        if constraint is None:
            return {}
        schema = {"enum": constraint.given} if constraint.form == "choice" else constraint.given
        return json_format(schema)

    def fitted(self, can: Capabilities) -> Capabilities:
        """Returns the capabilities as they are in the modes of the pool."""
        return can

    def continued(self) -> dict[str, Any]:
        return {}

    def thinking(self, budget: int) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def _turn(self, request: RemoteRequest) -> dict[str, Any]:
        assert request.turn is not None
        if not request.tools:
            return {}
        return {
            "tools": api_tools(request.tools),
            "tool_choice": request.turn.choice,
            "parallel_tool_calls": request.turn.parallel,
        }

    def reader(self, pool: str, request: RemoteRequest) -> AnswerReader:  # noqa: ARG002
        """Returns what reads the events of the answer."""
        return AnswerReader(pool)

    def reported(self, reader: AnswerReader) -> Reported:
        """Returns the counts that the server gave."""
        return usage_of(reader.usage)

    def text_of(self, request: RemoteRequest, reader: AnswerReader) -> str:
        """Returns the output: of a step that calls a tool natively the call's JSON text, of an enum its string."""
        if request.turn is None and request.kind == "tool_call" and reader.calls:
            return _call_text(reader.calls[0])
        if request.constraint is not None and request.constraint.form == "choice":
            return self.option(reader.text)
        return reader.text

    def option(self, text: str) -> str:
        """Returns the option of a choice that was written as a JSON string."""
        try:
            found = json.loads(text)
        except ValueError:
            return text
        return found if isinstance(found, str) else text


def json_format(schema: Any) -> dict[str, Any]:
    """Returns OpenAI's response format for a JSON Schema."""
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    }


def _call_text(call: CallText) -> str:
    """Returns a call as the JSON text that our schemas of tools describe; arguments that are no JSON stay as they are,
    so that validation shows them."""
    return f'{{"name":{json.dumps(call.name)},"arguments":{call.arguments or "{}"}}}'
