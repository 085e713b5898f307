"""`/v1/decisions` and `/v1/systemone`: questions about one input over HTTP.

Knows Starlette, both documents and an engine. Does not know limits, keys or queues: the app around these routes does.
`error_response`, `body_of` and `scope_of` stand for what that app has of its own. Read of `app.state`: `engine` and,
where it is there, `calibration`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trimode.engine.errors import QueueFull, RequestError, TrimodeError
from trimode.policy.calls import Engine
from trimode.policy.decisions import Calibration, Decision, DecisionAnswer
from trimode.policy.errors import BudgetExceeded, PolicyError, SchemaError

from ..wire.decisions import BadDecision, Choice, DecisionBody, Predicate, Question, SystemOneBody, validated
from ..wire.questions import messages_of, question_of, system_one_question, text_of

Answer = Callable[[Engine, Any, str, Calibration], Awaitable[dict[str, Any]]]
PLAIN: Final = Calibration()
_INVALID: Final = "invalid_request_error"


async def decisions(request: Request) -> Response:
    """Answers `POST /v1/decisions`."""
    return await _answered(request, decided)


async def systemone(request: Request) -> Response:
    """Answers `POST /v1/systemone`."""
    return await _answered(request, system_one)


ROUTES: Final[list[Route]] = [
    Route("/v1/decisions", decisions, methods=["POST"]),
    Route("/v1/systemone", systemone, methods=["POST"]),
]


async def _answered(request: Request, answer: Answer) -> Response:
    try:
        tenant, state = getattr(request.state, "tenant", ""), request.app.state
        calibration = getattr(state, "calibration", PLAIN)
        return JSONResponse(await answer(state.engine, await body_of(request), tenant, calibration))
    except TrimodeError as error:
        return error_response(error)


async def body_of(request: Request) -> Any:
    """Returns the body's JSON. Raises BadDecision."""
    try:
        return json.loads(await request.body(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadDecision(f"the body is not JSON: {error}", "", "invalid_json") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def scope_of(tenant: str, key: str | None) -> str | None:
    """Returns the scope of cached prefixes: a client's key partitions its tenant's, and reaches no other tenant's."""
    return json.dumps([tenant, key]) if tenant or key is not None else None


def error_response(error: TrimodeError) -> Response:
    """Returns an error in OpenAI's shape. The message of an error that is the server's own fault stays here."""
    status, kind, code = 500, "server_error", "internal_error"
    if isinstance(error, QueueFull | BudgetExceeded):
        status, kind, code = 429, "rate_limit_error", "queue_full"
    elif isinstance(error, RequestError | PolicyError | SchemaError):
        status, kind, code = 400, _INVALID, getattr(error, "code", "invalid_value")
    message = str(error) if status < 500 else "the server could not complete this request"
    shape = {"message": message, "type": kind, "param": getattr(error, "param", None) or None, "code": code}
    return JSONResponse({"error": shape}, status, {"retry-after": "1"} if status == 429 else None)


async def decided(engine: Engine, body: Any, tenant: str, calibration: Calibration = PLAIN) -> dict[str, Any]:
    """Returns the document of `/v1/decisions`."""
    asked = validated(DecisionBody, body)
    questions = [_placed(f"questions[{at}]", question_of, one) for at, one in enumerate(asked.questions)]
    scope = scope_of(tenant, asked.prompt_cache_key)
    found = await engine.adecide(messages_of(asked.input), questions, calibration=calibration, cache_scope=scope)
    answers = [
        answer_document(question, answer) for question, answer in zip(asked.questions, found.answers, strict=True)
    ]
    tokens = found.stats.prompt_tokens + found.question_tokens
    usage = {
        "input_tokens": tokens,
        "input_tokens_details": {"cached_tokens": found.stats.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens,
    }
    return {"answers": answers, "model": engine.runtime.model, "usage": usage, "trimode": report(found)}


def answer_document(asked: Question, answer: DecisionAnswer) -> dict[str, Any]:
    """Returns one answer of `/v1/decisions`."""
    named: dict[str, Any] = {"type": asked.type, "name": asked.name}
    shares = answer.probabilities
    if isinstance(asked, Predicate):
        return {**named, "probability": answer.probability}
    if isinstance(asked, Choice):
        values = [option.value for option in asked.choices]
        pairs = zip(values, shares, strict=True)
        return {
            **named,
            "choice": values[shares.index(answer.confidence)],
            "confidence": answer.confidence,
            "probabilities": [{"value": value, "probability": share} for value, share in pairs],
        }
    levels = enumerate(zip(asked.levels, shares, strict=True))
    return {
        **named,
        "score": answer.score,
        "confidence": answer.confidence,
        "probabilities": [{"label": level.label, "value": at, "probability": share} for at, (level, share) in levels],
    }


async def system_one(engine: Engine, body: Any, tenant: str, calibration: Calibration = PLAIN) -> dict[str, Any]:
    """Returns the document of `/v1/systemone`."""
    asked = validated(SystemOneBody, body)
    questions = [_placed(f"questions.{name}", system_one_question, one) for name, one in asked.questions.items()]
    found = await engine.adecide(
        text_of(asked.state),
        questions,
        calibration=_placed("temperature", partial(_warmer, calibration), asked.temperature),
        cache_scope=scope_of(tenant, None),
    )
    answers = zip(asked.questions.items(), found.answers, strict=True)
    return {
        "model": engine.runtime.model,
        "answers": {name: system_one_answer(question, answer) for (name, question), answer in answers},
        "usage": {"input_tokens": found.stats.prompt_tokens + found.question_tokens, "output_tokens": 0},
        "trimode": report(found),
    }


def system_one_answer(asked: Any, answer: DecisionAnswer) -> dict[str, Any]:
    """Returns one answer of `/v1/systemone`."""
    if asked.type == "noul":
        return {"type": "noul", "noul": answer.probability}
    shares = dict(zip(answer.question.options, answer.probabilities, strict=True))
    if asked.type == "choice":
        return {"type": "choice", "choice": answer.option, "confidence": answer.confidence, "probabilities": shares}
    legend = {str(at): level for at, level in enumerate(asked.criteria)}
    return {
        "type": "score",
        "score": answer.score,
        "confidence": answer.confidence,
        "probabilities": shares,
        "legend": legend,
    }


def report(found: Decision) -> dict[str, Any]:
    """Returns how the decision was made."""
    stats = found.stats
    return {
        "record": found.audit_id,
        "mode": "choice",
        "passes": stats.prefill_passes + stats.forward_passes,
        "calibration": asdict(found.calibration),
        "notes": list(found.notes),
    }


def _warmer(calibration: Calibration, temperature: float) -> Calibration:
    return replace(calibration, temperature=calibration.temperature * temperature)


def _placed(place: str, made: Callable[[Any], Any], asked: Any) -> Any:
    """Returns `made(asked)`; an error names the question."""
    try:
        return made(asked)
    except RequestError as error:
        raise BadDecision(f"{place}: {error}", place) from None
