"""`/v1/models`, `/tokenize`, `/detokenize`: what is served, and its tokenizer.

Knows the service and vLLM's shape of the tokenizer's endpoints. Does not decode.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from trimode.policy.calls import Engine, call_of

from ..refusals import BadParameter, UnknownModel
from ..service import Service
from ..transport.exchange import exchange
from ..wire.base import Tool, Wire, validated
from ..wire.chat import Message


class TokenizeRequest(Wire):
    """Either a raw `prompt`, or `messages` (and `tools`) as the chat template writes them."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(default=None, min_length=1)
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None


class DetokenizeRequest(Wire):
    model: str | None = None
    tokens: list[int]


async def models(request: Request) -> Response:
    """Answers `GET /v1/models`."""
    service: Service = request.app.state.service
    return JSONResponse({"object": "list", "data": [_model(service, name) for name in service.names]})


async def model(request: Request) -> Response:
    """Answers `GET /v1/models/{name}`."""
    service: Service = request.app.state.service
    name = request.path_params["name"]
    if name not in service.names:
        raise UnknownModel(f"the model {name[:200]!r} is not served here; known: {', '.join(service.names)}", "model")
    return JSONResponse(_model(service, name))


async def tokenize(request: Request) -> Response:
    """Answers `POST /tokenize`: {"tokens", "count", "max_model_len"}."""
    served = await exchange(request)
    asked = validated(TokenizeRequest, served.body, {"return_token_strs": (False, None)})
    if asked.model is not None:
        served.check_model(asked.model)
    service: Service = request.app.state.service
    engine = service.engine
    ids = await asyncio.to_thread(_ids, engine, asked)
    return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": engine.context})


async def detokenize(request: Request) -> Response:
    """Answers `POST /detokenize`: {"prompt"}."""
    served = await exchange(request)
    asked = validated(DetokenizeRequest, served.body, {})
    if asked.model is not None:
        served.check_model(asked.model)
    service: Service = request.app.state.service
    tokenizer = service.engine.tokenizer
    if wrong := [token for token in asked.tokens if not 0 <= token < tokenizer.vocab_size]:
        raise BadParameter(f"tokens: {wrong[0]} is no token; expected 0 to {tokenizer.vocab_size - 1}", "tokens")
    return JSONResponse({"prompt": tokenizer.decode(asked.tokens)})


def _ids(engine: Engine, asked: TokenizeRequest) -> list[int]:
    """Returns the ids. Raises BadParameter unless there is either a prompt or a conversation."""
    if (asked.prompt is None) == (asked.messages is None):
        raise BadParameter("expected either prompt or messages", "prompt")
    if asked.prompt is not None:
        if asked.tools is not None or asked.add_special_tokens is True:
            name = "tools" if asked.tools is not None else "add_special_tokens"
            raise BadParameter(f"{name} belongs to messages; a prompt is tokenized as it is", name)
        return engine.tokenize(asked.prompt)
    messages = [one.model_dump(exclude_none=True, exclude={"reasoning_content"}) for one in asked.messages or ()]
    tools = [one.model_dump(exclude_none=True) for one in asked.tools or ()]
    return engine.encode(call_of("tokenize", None, engine.planned, messages=messages, tools=tools, step="prose"))


def _model(service: Service, name: str) -> dict[str, Any]:
    return {
        "id": name, "object": "model", "created": 0, "owned_by": "trimode",
        "max_model_len": service.engine.context, "root": service.engine.runtime.model,
    }  # fmt: skip
