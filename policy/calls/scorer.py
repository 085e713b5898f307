"""Scoring given texts on an engine: options of a choice, questions about one input, tokens of a finished output.

Knows calls, their recordings and scoring requests. Does not know checkpoints, or how tokens are scored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trimode.engine.result import TokenLogprobs
from trimode.engine.scoring import TokenLogprobsRequest

from ..conversation import checked_ids
from ..decisions import Calibration, Decision, DecisionQuestion, checked_questions
from ..schema import shapes_of
from .arguments import checked_scope, choice_call, decide_call, tools_of
from .call import Call
from .call_runner import CallRunner
from .recording import Recording
from .result import Result, ScoredChoice

PLAIN: Final = Calibration()
"""Log-probabilities as they are."""


class Scorer(CallRunner):
    """What an engine reads instead of writing. Choices and decisions are recorded as calls are."""

    def choice(
        self,
        options: Sequence[str],
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        prompt_ids: Sequence[int] | None = None,
        tools: Sequence[Any] = (),
        cache_scope: str | None = None,
    ) -> ScoredChoice:
        """Scores `options` as whole answers in one pass; returns all log-probabilities and the likeliest option."""
        call = choice_call(options, prompt, messages, tools, prompt_ids, self.planned, cache_scope)
        return self._chosen(call, self._run(call, self._prepare_choice))

    async def achoice(
        self,
        options: Sequence[str],
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        prompt_ids: Sequence[int] | None = None,
        tools: Sequence[Any] = (),
        cache_scope: str | None = None,
    ) -> ScoredChoice:
        """`choice` for asyncio tasks."""
        call = choice_call(options, prompt, messages, tools, prompt_ids, self.planned, cache_scope)
        return self._chosen(call, await self._arun(call, self._aprepare_choice))

    def decide(
        self,
        input: str | Sequence[Mapping[str, Any]],
        questions: Sequence[DecisionQuestion],
        *,
        tools: Sequence[Any] = (),
        calibration: Calibration = PLAIN,
        cache_scope: str | None = None,
    ) -> Decision:
        """Answers up to 400 questions about one input, a text or messages, which is read once.

        Questions do not see each other. `calibration` corrects how log-probabilities become shares; the default takes
        them as they are. `tools` are shown with messages. Raises RequestError and PromptTooLong.
        """
        call = self._decide_call(input, tools, cache_scope)
        found = checked_questions(questions)
        result = self._run(call, lambda recording: self._ask(recording, found, calibration))
        assert isinstance(result.value, Decision)
        return result.value

    async def adecide(
        self,
        input: str | Sequence[Mapping[str, Any]],
        questions: Sequence[DecisionQuestion],
        *,
        tools: Sequence[Any] = (),
        calibration: Calibration = PLAIN,
        cache_scope: str | None = None,
    ) -> Decision:
        """`decide` for asyncio tasks; prompts are tokenized in a thread."""
        call = self._decide_call(input, tools, cache_scope)
        found = checked_questions(questions)

        async def prepare(recording: Recording) -> None:
            await asyncio.to_thread(self._ask, recording, found, calibration)

        result = await self._arun(call, prepare)
        assert isinstance(result.value, Decision)
        return result.value

    def token_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], top: int = 0, *, cache_scope: str | None = None
    ) -> TokenLogprobs:
        """Returns each token's log-probability after the prompt and the tokens before it, in nats, and at its place the
        `top` (0 to 20) likeliest tokens.

        `result.prompt_ids` and `result.token_ids` are a result's. The figures are those of mode `ar` at temperature 1
        over the whole vocabulary, without schema, bias or filters, whatever mode wrote the tokens; rows of a prompt
        that was just read come from the cache. Nothing is recorded, because a record has the same ids. Raises
        RequestError and PromptTooLong.
        """
        found: TokenLogprobs = self.tokens.decode(logprobs_request(prompt_ids, token_ids, top, cache_scope))
        return found

    async def atoken_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], top: int = 0, *, cache_scope: str | None = None
    ) -> TokenLogprobs:
        """`token_logprobs` for asyncio tasks. Cancelling the task frees its memory within one pass."""
        found: TokenLogprobs = await self.tokens.adecode(logprobs_request(prompt_ids, token_ids, top, cache_scope))
        return found

    def _prepare_choice(self, recording: Recording) -> object:
        """Fills in the recording's request and notes. A server may write a choice that it does not score."""
        return self._prepare(recording)

    async def _aprepare_choice(self, recording: Recording) -> object:
        return await self._aprepare(recording)

    def _chosen(self, call: Call, result: Result) -> ScoredChoice:  # noqa: ARG002
        assert result.choice is not None
        return result.choice

    def _decide_call(self, given: Any, tools: Sequence[Any], cache_scope: str | None) -> Call:
        described = [shape.described for shape in shapes_of(tools_of(tools, "decide()"))]
        return decide_call(given, described, self.planned, cache_scope)

    def _ask(self, recording: Recording, questions: Sequence[DecisionQuestion], calibration: Calibration) -> None:
        """Fills in the recording's request, questions and notes."""
        call = recording.call
        recording.request, recording.asked, notes = self.translator.decision(call, questions, calibration)
        recording.notes += [*call.notes, *notes]


def logprobs_request(prompt: Any, tokens: Any, top: int, cache_scope: Any) -> TokenLogprobsRequest:
    """Returns the request of `token_logprobs`. Raises RequestError for arguments that cannot be used."""
    return TokenLogprobsRequest(
        prompt=checked_ids(prompt),
        tokens=checked_ids(tokens, "token_ids"),
        top=top,
        cache_scope=checked_scope(cache_scope, "token_logprobs"),
    )
