"""Options and tokens scored at a server: which tokens they are there, and what their scores come to.

Knows requests that score and a driver's scorer. Does not know HTTP or pools. An option's score is that of going on with
its tokens: which token ends an answer is known to the server alone, so that ends are not scored, and options of which
one begins another are refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import exp, fsum
from typing import Final

from trimode.engine.errors import RequestError
from trimode.policy.decisions import common_beginning, with_question
from trimode.policy.remote import AnswerGarbled, Capabilities, RemoteRequest, Scored, Scores

from .drivers.token_scores import Given, Ids, TokenScorer
from .transport.client import Client

SLACK: Final = 1e-3
"""Probability that rounding may add to that of options which exclude each other."""


async def scored(client: Client, scorer: TokenScorer, can: Capabilities, request: RemoteRequest) -> Scores:
    """Returns the scores that a request asks for. Raises RequestError for options that cannot be told apart, and
    RemoteError."""
    if request.scoring[0].tokens:
        return await _tokens(client, scorer, can, request)
    prompts = [await scorer.prompt_ids(client, can, _asking(request, one)) for one in request.scoring]
    spellings = await _spellings(client, scorer, can, request.scoring)
    logprobs = list[tuple[float, ...]]()
    for one, prompt in zip(request.scoring, prompts, strict=True):
        candidates = [spellings[option] for option in one.options]
        check_apart(one.options, candidates)
        found = await scorer.scores(client, can, [Given(prompt, ids) for ids in candidates], 0)
        logprobs.append(tuple(fsum(token.logprob for token in tokens) for tokens in found))
        _check_total(client.pool, logprobs[-1])
    shared = len(common_beginning([[*prompt] for prompt in prompts])) if len(prompts) > 1 else len(prompts[0])
    after = sum(len(prompt) - shared for prompt in prompts)
    return Scores(logprobs=tuple(logprobs), prompt_tokens=shared, question_tokens=after, how=scorer.how)


def check_apart(options: Sequence[str], candidates: Sequence[Ids]) -> None:
    """Raises RequestError where an option has no tokens, or its tokens begin those of another."""
    ordered = sorted(zip(candidates, options, strict=True))
    empty = next((option for ids, option in ordered if not ids), None)
    if empty is not None:
        raise RequestError(f"option {empty!r} has no tokens at the server, so there is nothing to score")
    for (ids, option), (longer, other) in pairwise(ordered):
        if longer[: len(ids)] == ids:
            raise RequestError(
                f"option {option!r} begins option {other!r}, and ends of answers are not scored at a server: reword "
                "one of them, or use a step of kind 'choice', which has an option written"
            )


async def _tokens(client: Client, scorer: TokenScorer, can: Capabilities, request: RemoteRequest) -> Scores:
    (asked,), prompt = request.scoring, request.prompt_ids or ()
    if asked.top and not scorer.ranks:
        raise RequestError(
            f"top={asked.top}: a {can.kind} server names the likeliest tokens by text alone; leave it out"
        )
    (found,) = await scorer.scores(client, can, [Given(prompt, asked.tokens)], asked.top)
    logprobs, top = tuple(one.logprob for one in found), tuple(one.top[: asked.top] for one in found)
    return Scores(logprobs=(logprobs,), top=top, prompt_tokens=len(prompt), how=scorer.how)


async def _spellings(
    client: Client, scorer: TokenScorer, can: Capabilities, scoring: Sequence[Scored]
) -> dict[str, Ids]:
    """Returns the tokens of every option, each asked for once."""
    options = list(dict.fromkeys(option for one in scoring for option in one.options))
    found = await asyncio.gather(*(scorer.text_ids(client, can, option) for option in options))
    return dict(zip(options, found, strict=True))


def _asking(request: RemoteRequest, one: Scored) -> RemoteRequest:
    return replace(request, messages=with_question(request.messages, one.question)) if one.question else request


def _check_total(pool: str, logprobs: Sequence[float]) -> None:
    """Raises AnswerGarbled for figures of a masked or biased distribution, in which each option is certain."""
    total = fsum(map(exp, logprobs))
    if not total <= 1 + SLACK:
        raise AnswerGarbled(
            pool, f"probabilities of options that exclude each other sum to {total:.3g}: they are not the model's own"
        )


def likeliest(one: Scored, logprobs: Sequence[float]) -> str:
    """Returns the likeliest option, the first one on a tie."""
    return one.options[logprobs.index(max(logprobs))]
