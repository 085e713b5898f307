"""Abilities that an engine may or may not have: log-probabilities, logit bias, a cache for each tenant.

Knows their names in the engine. Does not know HTTP. What an engine lacks is refused by the parameter's name.
"""

from __future__ import annotations

from typing import Any

from trimode.policy.calls import CallOptions, Engine, Result

from ..refusals import UnsupportedParameter
from .ask import Ask
from .events import Logprob


def options_of(ask: Ask, tenant_cache: bool) -> dict[str, Any]:
    """Returns the call options of such abilities. Raises UnsupportedParameter where the engine lacks one."""
    found = dict[str, Any]()
    if ask.logit_bias is not None:
        found["logit_bias"] = ask.logit_bias
    if tenant_cache:
        found["cache_scope"] = ask.caller.tenant
    for name in found.keys() - CallOptions.__annotations__.keys():
        raise UnsupportedParameter(f"{name} is not supported by this engine; leave it out", name)
    return found


def check_logprobs(ask: Ask, engine: Engine) -> None:
    """Raises UnsupportedParameter where log-probabilities are asked for and the engine gives none."""
    if ask.top_logprobs is not None and not hasattr(engine, "token_logprobs"):
        raise UnsupportedParameter("logprobs are not supported by this engine; leave it out", "logprobs")


async def logprobs_of(engine: Engine, ask: Ask, result: Result) -> tuple[Logprob, ...] | None:
    """Returns the log-probabilities of the output's tokens; None if none are asked for."""
    if ask.top_logprobs is None:
        return None
    raise UnsupportedParameter(f"logprobs of {len(result.token_ids)} tokens: {engine} gives none", "logprobs")
