"""Abilities that an engine may or may not have: log-probabilities, logit bias, a cache for each tenant.

Knows their names in the engine. Does not know HTTP. What an engine lacks is refused by the parameter's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, cast

from trimode.policy.calls import CallOptions, Engine, Result
from trimode.policy.turns import TurnSegment

from ..refusals import UnsupportedParameter
from .ask import Ask
from .events import Logprob

LEAST: Final = -9999.0
"""Log-probability, in nats, of what cannot come, because JSON has no infinity."""


def options_of(ask: Ask, tenant_cache: bool) -> dict[str, Any]:
    """Returns the call options of such abilities. Raises UnsupportedParameter where the engine lacks one."""
    found = dict[str, Any]()
    if ask.logit_bias is not None:
        found["logit_bias"] = ask.logit_bias
    if tenant_cache:
        found["cache_scope"] = json.dumps([ask.caller.tenant, None])  # as decisions write it
    for name in found.keys() - CallOptions.__annotations__.keys():
        raise UnsupportedParameter(f"{name} is not supported by this engine; leave it out", name)
    return found


def check_logprobs(ask: Ask, engine: Engine) -> None:
    """Raises UnsupportedParameter where log-probabilities are asked for and the engine gives none."""
    if ask.top_logprobs is not None and not hasattr(engine, "atoken_logprobs"):
        raise UnsupportedParameter("logprobs are not supported by this engine; leave it out", "logprobs")


async def logprobs_of(engine: Engine, ask: Ask, result: Result) -> tuple[Logprob, ...] | None:
    """Returns the log-probabilities of the tokens of text, those of mode `ar`; None if none are asked for."""
    if ask.top_logprobs is None:
        return None
    scorer, scored = cast(Any, engine), cast(Any, result)
    found = await scorer.atoken_logprobs(scored.prompt_ids, result.token_ids, ask.top_logprobs)
    decode = engine.tokenizer.decode
    return tuple(
        Logprob(
            token=decode([result.token_ids[at]]),
            logprob=max(found.logprobs[at], LEAST),
            top=[(decode([token]), max(logprob, LEAST)) for token, logprob in found.top[at]],
        )
        for at in _text_tokens(engine, result)
    )


def _text_tokens(engine: Engine, result: Result) -> Iterator[int]:
    """Yields the places of the tokens that are text: no thinking, calls, end, or marker of a call."""
    ends = engine.translator.config.eos_token_ids
    spans = [(one.start, _text_end(engine, result, one)) for one in result.segments if one.kind in ("prose", "json")]
    for start, end in spans if result.segments else [(0, len(result.token_ids))]:
        yield from (at for at in range(start, end) if result.token_ids[at] not in ends)


def _text_end(engine: Engine, result: Result, segment: TurnSegment) -> int:
    """Returns the place after the last token that has part in the segment's text; the marker's are after it."""
    decode, end = engine.tokenizer.decode, segment.end
    text = len(decode(result.token_ids[: segment.start])) + len(segment.text)
    while end > segment.start and len(decode(result.token_ids[: end - 1])) >= text:
        end -= 1
    return end
