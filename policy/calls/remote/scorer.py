"""What a remote engine reads instead of writing: choices, decisions and log-probabilities, where its server scores.

Knows calls, their recordings and requests. Does not know how a server scores. A choice at a server that does not is
written under a constraint.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from trimode.engine.result import TokenLogprobs

from ...decisions import Asked, Calibration, DecisionQuestion
from ...remote import RemoteAnswer, RemoteRequest, RemoteServer, Scored
from ..engine import Engine
from ..recording import Recording
from ..result import Result, ScoredChoice
from ..scorer import logprobs_request
from .scored import stats_of
from .writer import RemoteWriter, reading

if TYPE_CHECKING:
    from ..call import Call


class RemoteScorer(Engine):
    """Scoring over a server. `server`: its pools."""

    server: RemoteServer
    _writer: RemoteWriter

    @abstractmethod
    def admitted(self, recording: Recording, request: RemoteRequest) -> RemoteRequest:
        """Returns the request once some pool can serve it, and fills in the recording."""

    @property
    def scores(self) -> bool:
        """Whether some pool scores texts that it is given."""
        return any(can.scores for can in self.server.capabilities.values())

    def _prepare_choice(self, recording: Recording) -> object:
        if not self.scores:
            return self._prepare(recording)
        return self._scoring(recording, [Scored(options=recording.call.candidates)])

    async def _aprepare_choice(self, recording: Recording) -> object:
        return self._prepare_choice(recording)

    def _chosen(self, call: Call, result: Result) -> ScoredChoice:
        if result.choice is not None:
            return result.choice
        return ScoredChoice(options=call.candidates, logprobs=(), stats=result.stats, written=result.text)

    def _ask(self, recording: Recording, questions: Sequence[DecisionQuestion], calibration: Calibration) -> None:
        recording.asked = Asked(tuple(questions), (), calibration)
        self._scoring(recording, [Scored(options=one.options, question=one.text) for one in questions])

    def _scoring(self, recording: Recording, scoring: Sequence[Scored]) -> RemoteRequest:
        return self.admitted(recording, self._writer.scoring(recording.call, scoring))

    def token_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], top: int = 0, *, cache_scope: str | None = None
    ) -> TokenLogprobs:
        """As for an engine here, by the server's own ids. Raises ScoresNotGiven where it scores no tokens."""
        return _told(self._read(prompt_ids, token_ids, top, cache_scope).result())

    async def atoken_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], top: int = 0, *, cache_scope: str | None = None
    ) -> TokenLogprobs:
        """`token_logprobs` for asyncio tasks."""
        return _told(await asyncio.wrap_future(self._read(prompt_ids, token_ids, top, cache_scope)))

    def _read(self, prompt: Any, tokens: Any, top: int, cache_scope: Any) -> Future[RemoteAnswer]:
        checked = logprobs_request(prompt, tokens, top, cache_scope)
        request = reading(checked.prompt, checked.tokens, checked.top, self.server.modes[0])
        self.server.admit(request)
        return self.server.submit(request)


def _told(answer: RemoteAnswer) -> TokenLogprobs:
    scores = answer.scores
    assert scores is not None
    return TokenLogprobs(logprobs=scores.logprobs[0], top=scores.top, stats=stats_of(answer, scores))
