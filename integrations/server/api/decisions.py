"""The documents of `/v1/decisions` and `/v1/systemone`: questions about one input.

Knows both documents and an engine. Does not know HTTP, limits, keys or queues: `decided.py` does.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final

from trimode.engine.errors import RequestError
from trimode.policy.calls import Engine
from trimode.policy.decisions import Calibration, Decision, DecisionAnswer

from ..wire.decisions import BadDecision, Choice, DecisionBody, Predicate, Question, SystemOneBody, validated
from ..wire.questions import messages_of, question_of, system_one_question, text_of

Answer = Callable[[Engine, Any, str, Calibration], Awaitable[dict[str, Any]]]
PLAIN: Final = Calibration()


def scope_of(tenant: str, key: str | None) -> str | None:
    """Returns the scope of cached prefixes: a client's key partitions its tenant's, and reaches no other tenant's."""
    return json.dumps([tenant, key]) if tenant or key is not None else None


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
