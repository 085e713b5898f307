"""`/openapi.json`: the APIs described by the models that check their requests.

Knows OpenAPI 3.1 and the request models. Does not know what the endpoints do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..error_table import ANTHROPIC
from ..service import Front
from ..wire import chat, completions, messages, responses
from ..wire.base import Neutral, Wire
from .catalog import DetokenizeRequest, TokenizeRequest

_REF: Final = "#/components/schemas/{model}"
_POSTS: Final[Mapping[str, tuple[type[Wire], Neutral, str]]] = {
    "/v1/chat/completions": (chat.ChatRequest, chat.NEUTRAL, "Answers a conversation."),
    "/v1/completions": (completions.CompletionRequest, completions.NEUTRAL, "Continues a text."),
    "/v1/responses": (responses.ResponsesRequest, responses.NEUTRAL, "Answers a conversation; nothing is stored."),
    "/v1/messages": (messages.MessagesRequest, messages.NEUTRAL, "Answers a conversation, in Anthropic's shape."),
    "/v1/messages/count_tokens": (messages.Countable, messages.NEUTRAL, "Tokens of a conversation."),
    "/tokenize": (TokenizeRequest, {"return_token_strs": (False, None)}, "Token ids of a text or conversation."),
    "/detokenize": (DetokenizeRequest, {}, "The text of token ids."),
}
_GETS: Final = {
    "/health": "Whether the process serves.",
    "/ready": "Whether new requests are welcome.",
    "/v1/models": "The models that are served.",
}
_REFUSALS: Final = {
    "400": "A parameter cannot be used; `param` names it.",
    "401": "No API key, or an unknown one.",
    "404": "No such model or path.",
    "405": "Another method.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is not application/json.",
    "422": "No attempt under guarantee `checked` fulfilled the schema.",
    "429": "Too many requests wait; see Retry-After.",
    "500": "The server failed; its log says why.",
    "503": "The server is shutting down.",
    "504": "The time of the request ran out.",
}
_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_ANTHROPIC_ERROR: Final = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}


async def openapi(request: Request) -> Response:
    """Answers `GET /openapi.json`."""
    service: Front = request.app.state.service
    return JSONResponse(description(service.names))


@cache
def description(names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the description of all endpoints. `names`: of the model."""
    models = [(model, "validation") for model, _, _ in _POSTS.values()]
    _, definitions = models_json_schema(models, ref_template=_REF)  # type: ignore[arg-type]
    schemas = definitions["$defs"]
    for model, neutral, _ in _POSTS.values():
        schemas[model.__name__]["properties"] |= {name: {"enum": list(values)} for name, values in neutral.items()}
        schemas[model.__name__]["properties"]["model"] = {"enum": list(names)}
    paths = {path: {"post": _post(path, model, about)} for path, (model, _, about) in _POSTS.items()}
    paths |= {path: {"get": {"summary": about, "responses": _responses()}} for path, about in _GETS.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "trimode", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Error": _ERROR, "AnthropicError": _ANTHROPIC_ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _post(path: str, model: type[Wire], about: str) -> dict[str, Any]:
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {
        "summary": about,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _responses("AnthropicError" if path in ANTHROPIC else "Error"),
    }


def _responses(error: str = "Error") -> dict[str, Any]:
    refused = {"application/json": {"schema": {"$ref": _REF.format(model=error)}}}
    done = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {"schema": {"type": "string"}}}
    return {
        "200": {"description": "Done.", "content": done},
        **{status: {"description": why, "content": refused} for status, why in _REFUSALS.items()},
    }
