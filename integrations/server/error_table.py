"""Every error class of ours as an HTTP response in OpenAI's error shape: status, type, code and parameter.

Knows error classes and OpenAI's names. Does not know requests or responses. A test walks all classes, so that a new one
cannot be forgotten here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from trimode.engine import errors as engine
from trimode.policy import errors as policy

from . import refusals
from .wire.decisions import BadDecision

INVALID: Final = "invalid_request_error"
_TIMEOUT: Final = "timeout_error"
_SERVER: Final = "server_error"


@dataclass(frozen=True, slots=True)
class Shape:
    """How a class of errors is told. `shown`: whether its message may leave the server."""

    status: int
    type: str
    code: str
    shown: bool = True


TABLE: Final[dict[type[BaseException], Shape]] = {
    # engine
    engine.TrimodeError: Shape(500, _SERVER, "internal_error", shown=False),
    engine.CheckpointError: Shape(500, _SERVER, "checkpoint_error", shown=False),
    engine.CallCancelled: Shape(503, _SERVER, "cancelled"),
    engine.EngineStopped: Shape(500, _SERVER, "engine_stopped", shown=False),
    engine.NonFiniteLogits: Shape(500, _SERVER, "non_finite_logits", shown=False),
    engine.WeightsReleased: Shape(500, _SERVER, "weights_released", shown=False),
    engine.RequestError: Shape(400, INVALID, "invalid_value"),
    engine.ModeUnavailable: Shape(400, INVALID, "mode_unavailable"),
    engine.PromptTooLong: Shape(400, INVALID, "context_length_exceeded"),
    engine.KvMemoryExceeded: Shape(400, INVALID, "kv_memory_exceeded"),
    engine.DeviceMemoryExceeded: Shape(500, _SERVER, "device_memory_exceeded", shown=False),
    engine.RowsDisagree: Shape(500, _SERVER, "rows_disagree", shown=False),
    engine.QueueFull: Shape(429, "rate_limit_error", "queue_full"),
    # policy
    policy.SchemaError: Shape(400, INVALID, "invalid_schema"),
    policy.SchemaRefused: Shape(400, INVALID, "invalid_schema"),
    policy.MalformedSchema: Shape(400, INVALID, "malformed_schema"),
    policy.UnsupportedKeyword: Shape(400, INVALID, "unsupported_schema_keyword"),
    policy.UnsatisfiableSchema: Shape(400, INVALID, "unsatisfiable_schema"),
    policy.SchemaTooComplex: Shape(400, INVALID, "schema_too_complex"),
    policy.MalformedGrammar: Shape(400, INVALID, "malformed_grammar"),
    policy.UnsupportedSyntax: Shape(400, INVALID, "unsupported_syntax"),
    policy.BudgetTooSmall: Shape(400, INVALID, "max_tokens_too_small"),
    policy.OutputRefused: Shape(500, _SERVER, "output_refused", shown=False),
    policy.SchemaViolation: Shape(500, _SERVER, "schema_violation", shown=False),
    policy.CheckFailed: Shape(422, INVALID, "check_failed"),
    policy.GrammarRuntimeError: Shape(500, _SERVER, "grammar_stopped", shown=False),
    policy.AuditError: Shape(500, _SERVER, "audit_error", shown=False),
    policy.AuditFileRefused: Shape(500, _SERVER, "audit_error", shown=False),
    policy.TrailsNotMerged: Shape(500, _SERVER, "audit_error", shown=False),
    policy.AuditWriteFailed: Shape(500, _SERVER, "audit_write_failed", shown=False),
    policy.BudgetExceeded: Shape(429, "insufficient_quota", "budget_exceeded"),
    policy.ToolError: Shape(400, INVALID, "invalid_tool"),
    policy.UnknownTool: Shape(400, INVALID, "unknown_tool"),
    policy.InvalidArguments: Shape(400, INVALID, "invalid_tool_arguments"),
    policy.PolicyError: Shape(400, INVALID, "invalid_policy"),
    policy.StepError: Shape(400, INVALID, "invalid_step"),
    # server
    refusals.ServerError: Shape(500, _SERVER, "internal_error", shown=False),
    refusals.BadParameter: Shape(400, INVALID, "invalid_value"),
    refusals.MissingParameter: Shape(400, INVALID, "missing_required_parameter"),
    refusals.UnknownParameter: Shape(400, INVALID, "unknown_parameter"),
    refusals.UnsupportedParameter: Shape(400, INVALID, "unsupported_parameter"),
    refusals.BadBody: Shape(400, INVALID, "invalid_json"),
    refusals.WrongContentType: Shape(415, INVALID, "unsupported_media_type"),
    refusals.BodyTooLarge: Shape(413, INVALID, "body_too_large"),
    refusals.BodyTooSlow: Shape(408, _TIMEOUT, "body_timeout"),
    refusals.NoKey: Shape(401, "authentication_error", "invalid_api_key"),
    refusals.UnknownModel: Shape(404, INVALID, "model_not_found"),
    refusals.UnknownPath: Shape(404, INVALID, "unknown_url"),
    refusals.WrongMethod: Shape(405, INVALID, "method_not_allowed"),
    refusals.TooManyWaiting: Shape(429, "rate_limit_error", "queue_full"),
    refusals.ShuttingDown: Shape(503, _SERVER, "shutting_down"),
    refusals.ReplicasLost: Shape(503, _SERVER, "replicas_lost"),
    refusals.ReplayDiffers: Shape(500, _SERVER, "replay_differs"),
    refusals.OutOfTime: Shape(504, _TIMEOUT, "deadline_exceeded"),
    refusals.CallerLeft: Shape(499, INVALID, "client_closed_request"),
}
PARAMETERS: Final[dict[type[BaseException], str]] = {
    engine.ModeUnavailable: "trimode.mode",
    engine.PromptTooLong: "messages",
    engine.KvMemoryExceeded: "max_completion_tokens",
    policy.BudgetTooSmall: "max_completion_tokens",
    policy.UnknownTool: "tool_choice",
    policy.CheckFailed: "response_format",
}
"""The parameter that most often caused an error, where its class alone says which, as the chat API calls it."""
NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "/v1/completions": {"messages": "prompt", "max_completion_tokens": "max_tokens"},
    "/v1/responses": {
        "messages": "input", "max_completion_tokens": "max_output_tokens", "response_format": "text.format",
        "reasoning_effort": "reasoning.effort",
    },
}  # fmt: skip
"""Other names of parameters, by path of the API."""
ANTHROPIC: Final = ("/v1/messages", "/v1/messages/count_tokens")
"""Paths whose errors have Anthropic's shape."""
_ANTHROPIC_TYPES: Final = {
    400: INVALID, 401: "authentication_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip
_RENAMED: Final = {
    "max_tokens": "max_completion_tokens",
    "prompt_ids": "prompt",
    "schema": "response_format",
    "max_thinking_tokens": "reasoning_effort",
}
"""Arguments of the engine that the APIs call otherwise."""
_PLAIN: Final = frozenset(
    ("messages", "prompt", "tools", "temperature", "top_p", "seed", "stop", "suffix", "logit_bias", "tool_choice")
)
_ARGUMENT: Final = re.compile(r"^(?:\w+\(\): )?(?P<name>[a-z_]+)(?P<place>(?:\[\d+\]|\.[a-z_]+)*)")


def shape_of(error: BaseException) -> Shape:
    """Returns the shape of the error's class, or of its nearest base; that of an internal error for foreign ones."""
    found = (TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
    return next(found, TABLE[engine.TrimodeError])


def retry_after(error: BaseException) -> int | None:
    """Returns the seconds after which the request may be sent again; None if that would not help."""
    given: int | None = getattr(error, "retry_after", None)
    return 1 if given is None and shape_of(error).status in (429, 503) else given


def document(error: BaseException, path: str = "") -> dict[str, Any]:
    """Returns the body of the response: {"error": {"message", "type", "param", "code"}}, or Anthropic's.

    `path`: of the API, whose shape the body and whose names its parameters get. The message of an error that is the
    server's own fault is left out; logs have it.
    """
    shape = shape_of(error)
    message = str(error) if shape.shown else "the server could not complete this request; its log says why"
    if path in ANTHROPIC:
        kind = _ANTHROPIC_TYPES.get(shape.status, INVALID if shape.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    param, code = param_of(error), error.code if isinstance(error, BadDecision) else shape.code
    named = param if param is None else NAMES.get(path, {}).get(param, param)
    return {"error": {"message": message, "type": shape.type, "param": named, "code": code}}


def param_of(error: BaseException) -> str | None:
    """Returns the path of the request's parameter that caused the error; None if none did."""
    if isinstance(error, refusals.ServerError | BadDecision):
        return error.param or None
    if shape_of(error).status >= 500:
        return None
    if isinstance(error, policy.SchemaRefused):
        return f"{'tools' if error.tool else 'response_format'}{error.pointer.replace('/', '.')}"
    if isinstance(error, policy.PolicyError):
        return _named(error.where[0], "") or f"trimode.{'.'.join(error.where)}" if error.where else "trimode"
    if type(error) in PARAMETERS:
        return PARAMETERS[type(error)]
    found = _ARGUMENT.match(str(error))
    return None if found is None else _named(found["name"], found["place"])


def _named(argument: str, place: str) -> str | None:
    """Returns the parameter that an argument of the engine came from; None if that is no parameter."""
    name = _RENAMED.get(argument, argument if argument in _PLAIN else None)
    return None if name is None else f"{name}{place}"
