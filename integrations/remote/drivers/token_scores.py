"""How servers score tokens that they are given: by log-probabilities of a prompt, or by forcing one token at a time.

Knows `/tokenize`, `/apply-template` and `/v1/completions`. Does not know questions or options. The figures are the
model's own at temperature 1, before bias, filters and constraints.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from trimode.policy.remote import AnswerGarbled, Capabilities, RemoteRequest, TopTokens

from ..transport.client import Client
from .messages import api_messages, api_tools

Ids = tuple[int, ...]
COMPLETIONS: Final = "/v1/completions"
FORCING: Final = 100.0
"""Bias of the token to be forced, the largest that OpenAI's API takes."""
AT_ONCE: Final = 4
"""Forced tokens that are asked for at a time."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """Log-probability of one token, in nats, and the likeliest tokens at its place."""

    logprob: float
    top: TopTokens = ()


@dataclass(frozen=True, slots=True)
class Given:
    """`tokens` to be scored, each after `prompt` and the tokens before it."""

    prompt: Ids
    tokens: Ids


class TokenScorer(ABC):
    """Tokenizes and scores by the endpoints that vLLM and `trimode serve` share. `how`: as results name it."""

    how: ClassVar[str]
    ranks: ClassVar[bool] = True
    """Whether the likeliest tokens at a place come with their ids."""

    async def prompt_ids(self, client: Client, can: Capabilities, request: RemoteRequest) -> Ids:
        """Returns the prompt in the server's tokens, messages by its own chat template. Raises RemoteError."""
        if request.prompt_ids is not None:
            return request.prompt_ids
        if not request.messages:
            return _ids(client.pool, await client.post("/tokenize", {"model": can.model, "prompt": request.prompt}))
        shown = {"tools": api_tools(request.tools)} if request.tools else {}
        body = {"model": can.model, "messages": api_messages(request.messages), **shown}
        return _ids(client.pool, await client.post("/tokenize", body))

    async def text_ids(self, client: Client, can: Capabilities, text: str) -> Ids:
        """Returns a text in the server's tokens, without any that begin a prompt. Raises RemoteError."""
        body = {"model": can.model, "prompt": text, "add_special_tokens": False}
        return _ids(client.pool, await client.post("/tokenize", body))

    @abstractmethod
    async def scores(
        self, client: Client, can: Capabilities, given: Sequence[Given], top: int
    ) -> list[list[TokenScore]]:
        """Returns for each of `given` the scores of its tokens, each with the `top` likeliest ones."""


class PromptLogprobs(TokenScorer):
    """vLLM, which gives log-probabilities of all tokens of a prompt: those to be scored go into it."""

    how: ClassVar[str] = "prompt_logprobs of /v1/completions"

    async def scores(
        self, client: Client, can: Capabilities, given: Sequence[Given], top: int
    ) -> list[list[TokenScore]]:
        prompts = [[*one.prompt, *one.tokens] for one in given]
        body = {"model": can.model, "prompt": prompts, "max_tokens": 1, "temperature": 0, "prompt_logprobs": top}
        choices = _choices(client.pool, await client.post(COMPLETIONS, body), len(given))
        try:
            listed = {choice["index"]: choice["prompt_logprobs"] for choice in choices}
            return [
                [_place(listed[number][at], token, top) for at, token in enumerate(one.tokens, len(one.prompt))]
                for number, one in enumerate(given)
            ]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise AnswerGarbled(client.pool, f"prompt_logprobs with other fields ({error!r})") from None


class ForcedTokens(TokenScorer):
    """A server that reports log-probabilities of written tokens before bias: each token to be scored is forced by a
    bias. What several of `given` begin with is asked for once; the server has it in its cache."""

    how: ClassVar[str] = "logprobs of /v1/completions, token by token, each forced by a bias"
    ranks: ClassVar[bool] = False

    async def scores(
        self, client: Client, can: Capabilities, given: Sequence[Given], top: int
    ) -> list[list[TokenScore]]:
        places = [[((*one.prompt, *one.tokens[:at]), token) for at, token in enumerate(one.tokens)] for one in given]
        distinct = list(dict.fromkeys(place for each in places for place in each))
        slots = asyncio.Semaphore(AT_ONCE)

        async def score(before: Ids, token: int) -> TokenScore:
            async with slots:
                return self.read(client.pool, token, await client.post(COMPLETIONS, self.body(can, before, token, top)))

        found = dict(zip(distinct, await asyncio.gather(*(score(*place) for place in distinct)), strict=True))
        return [[found[place] for place in each] for each in places]

    def body(self, can: Capabilities, before: Ids, token: int, top: int) -> dict[str, Any]:
        """Returns the request for one forced token."""
        return {
            "model": can.model, "prompt": list(before), "max_tokens": 1, "temperature": 0, "logprobs": top,
            "logit_bias": {str(token): FORCING},
        }  # fmt: skip

    def read(self, pool: str, token: int, answer: Any) -> TokenScore:  # noqa: ARG002 (other servers name the token)
        """Returns the score in an answer of OpenAI's completions, which names tokens by their text."""
        (choice,) = _choices(pool, answer, 1)
        try:
            return TokenScore(float(choice["logprobs"]["token_logprobs"][0]))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise AnswerGarbled(pool, f"logprobs with other fields ({error!r})") from None


class LlamaCppTokens(ForcedTokens):
    """llama.cpp's server, which names tokens by their ids, and has endpoints of its own for templates and tokens."""

    ranks: ClassVar[bool] = True

    async def prompt_ids(self, client: Client, can: Capabilities, request: RemoteRequest) -> Ids:  # noqa: ARG002
        if request.prompt_ids is not None:
            return request.prompt_ids
        text = request.prompt
        if request.messages:
            shown = {"tools": api_tools(request.tools)} if request.tools else {}
            rendered = await client.post("/apply-template", {"messages": api_messages(request.messages), **shown})
            text = rendered.get("prompt") if isinstance(rendered, Mapping) else None
        body = {"content": text, "add_special": True, "parse_special": True}
        return _ids(client.pool, await client.post("/tokenize", body))

    async def text_ids(self, client: Client, can: Capabilities, text: str) -> Ids:  # noqa: ARG002
        body = {"content": text, "add_special": False, "parse_special": False}
        return _ids(client.pool, await client.post("/tokenize", body))

    def body(self, can: Capabilities, before: Ids, token: int, top: int) -> dict[str, Any]:
        asked = super().body(can, before, token, max(1, top))
        return {**asked, "logit_bias": [[token, FORCING]], "cache_prompt": True}

    def read(self, pool: str, token: int, answer: Any) -> TokenScore:
        (choice,) = _choices(pool, answer, 1)
        try:
            (found,) = choice["logprobs"]["content"]
            written, logprob = found["id"], float(found["logprob"])
            top = tuple((one["id"], float(one["logprob"])) for one in found["top_logprobs"])
        except (KeyError, TypeError, ValueError) as error:
            raise AnswerGarbled(pool, f"logprobs with other fields ({error!r})") from None
        if written != token:
            raise AnswerGarbled(pool, f"token {written} came where a bias forced {token}")
        return TokenScore(logprob, top)


def _place(place: Mapping[str, Mapping[str, float]], token: int, top: int) -> TokenScore:
    """Returns the score of a token of a prompt, at whose place the likeliest ones are listed, and it too."""
    ranked = sorted((found["rank"], int(one), float(found["logprob"])) for one, found in place.items())
    likeliest = tuple((one, logprob) for _, one, logprob in ranked[:top])
    return TokenScore(float(place[str(token)]["logprob"]), likeliest)


def _ids(pool: str, answer: Any) -> Ids:
    found = answer.get("tokens") if isinstance(answer, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(one, int) for one in found):
        raise AnswerGarbled(pool, "/tokenize gives no token ids")
    return tuple(found)


def _choices(pool: str, answer: Any, number: int) -> Sequence[Any]:
    found = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(found, list) or len(found) != number:
        raise AnswerGarbled(pool, f"expected {number} choices")
    return found
