"""The public engine over a server: the same calls, steps and records, with decoding done elsewhere.

Knows the public engine, which it subclasses, and the protocol `RemoteServer`. Does not know HTTP. Prompts go as text;
schemas are compiled here before anything is sent, and validated here when it has come back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any, NoReturn, cast

from trimode.engine.errors import RequestError
from trimode.engine.jobs import Update
from trimode.engine.models.checkpoint import Checkpoint, locate
from trimode.engine.models.tokenizer import Tokenizer
from trimode.engine.token_engine import TokenEngine

from ...audit import Runtime
from ...grammar import GrammarCompiler
from ...remote import Capabilities, RemoteAnswer, RemoteRequest, RemoteServer
from ...selection import PoolAuto, Weights
from ...turns import call_ids
from ..calibrate import pools_path
from ..call import Call
from ..call_runner import CallRunner
from ..recording import Recording
from ..result import Result
from ..translator import Translator
from .finish import finished
from .recorded import remote_call
from .scored import scored
from .scorer import RemoteScorer
from .stream import TextStream
from .writer import RemoteWriter


class RemoteEngine(RemoteScorer):
    """An Engine whose calls are decoded by a server, made by `Engine.remote`. `server`: its pools.

    `capabilities` tells what each pool can do. The bundled tokenizer serves to compile schemas and, where a server
    reports no usage, to estimate output tokens; it never reads a prompt.
    """

    server: RemoteServer

    def __init__(self, server: RemoteServer) -> None:
        checkpoint, tokenizer, grammars = _bundled()
        self.grammars: GrammarCompiler = grammars
        config = checkpoint.config()
        absent = SimpleNamespace(model=SimpleNamespace(config=config, adapter=True), close=server.close)
        translator = Translator(tokenizer, self.grammars, config)
        CallRunner.__init__(self, cast(TokenEngine, absent), tokenizer, translator)
        self.checkpoint: Checkpoint = checkpoint
        self.server = server
        self._writer = RemoteWriter(self.grammars)

    def __repr__(self) -> str:
        pools = ", ".join(f"{name} ({', '.join(one.modes)})" for name, one in self.capabilities.items())
        first = self._first
        return f"<Engine {first.model.rpartition('/')[2]} on a {first.kind} server, {pools}>"

    @property
    def capabilities(self) -> Mapping[str, Capabilities]:
        """What each pool can do and promise, by its name, and where that is known from."""
        return self.server.capabilities

    @property
    def _first(self) -> Capabilities:
        return next(iter(self.capabilities.values()))

    @property
    def kernels(self) -> str:
        """The server in place of kernels, and what it promises of its modes."""
        first = self._first
        return f"{first.kind} {first.version or 'of unknown version'}, exactness: {first.exactness}"

    @property
    def graphs(self) -> str:
        return "off"

    @property
    def context(self) -> int:
        """Maximum number of tokens of prompt and output. Raises RequestError where the server does not tell it."""
        if self._first.context is None:
            raise RequestError("the server does not report the length of its context")
        return self._first.context

    @property
    def live(self) -> int:
        return self.server.live

    @cached_property
    def runtime(self) -> Runtime:
        first = self._first
        return Runtime(
            model=first.model,
            model_sha256="",
            tokenizer_sha256="",
            device="remote",
            dtype="unknown",
            kernels=f"{first.kind} {first.version or ''}".strip(),
            exactness=first.exactness,
        )

    @cached_property
    def weights(self) -> Weights:
        """The modes of the pools, in the place of those of weights."""
        return Weights(name=f"{self._first.kind} server's", modes=self.server.modes, scores=False)

    @cached_property
    # A policy by another rule, with the same methods for sessions; `Engine.load` alone has the one of the package.
    def auto(self) -> PoolAuto:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """The policy "auto" for these pools, with the evidence of earlier processes: it learns the speed of each."""
        pools = " ".join(f"{name}={one.kind}:{one.model}:{one.method}" for name, one in self.capabilities.items())
        return PoolAuto.kept(self.server.modes, pools_path(pools))

    def close(self) -> None:
        """Cancels all running calls, closes all connections and refuses later calls."""
        self.server.close()

    def recording(self, call: Call, streamed: bool = False) -> Recording:
        recording = super().recording(call, streamed)
        recording.text_of = recording.piece_of = str
        return recording

    def infill(self, *_: Any, **__: Any) -> NoReturn:
        raise RequestError("infill() fills a block of this process's own model; servers have no such call here")

    def tokenize(self, text: str, *, markup: bool = False) -> list[int]:  # noqa: ARG002
        raise RequestError("tokenize(): the server's tokenizer is not here; pass prompt= or messages=")

    def encode(self, call: Call) -> list[int]:  # noqa: ARG002
        raise RequestError("prompts of a remote engine are rendered by its server, so their ids are not known here")

    def _detokenizer(self, recording: Recording, stop: Sequence[str]) -> TextStream:
        turn, ids = recording.call.turn, call_ids(recording.id, recording.call.used_ids)
        kind = turn.segment_kinds[0] if turn is not None else "prose"
        return TextStream(lambda _: "", stop, ids=None if turn is None else ids, kind=kind)

    def _prepare(self, recording: Recording) -> RemoteRequest:
        return self.admitted(recording, self._writer.request(recording.call, recording.streamed))

    def admitted(self, recording: Recording, request: RemoteRequest) -> RemoteRequest:
        call, began = recording.call, time.perf_counter()
        admitted = self.server.admit(request)
        recording.request = request
        recording.notes += [*call.notes, *admitted.notes]
        if request.held:
            recording.guarantee = "grammar" if admitted.enforced and not call.retried else "checked"
        first = self.capabilities[admitted.pools[0]]
        recording.remote = lambda error: remote_call(request, None, first, error, time.perf_counter() - began)
        return request

    def _submit(self, recording: Recording, watch: Callable[[Update], None] | None = None) -> Future[Any]:
        assert isinstance(recording.request, RemoteRequest)
        return self.server.submit(recording.request, watch)

    def _finish(self, recording: Recording, found: Any) -> Result:
        assert isinstance(found, RemoteAnswer)
        request = recording.request
        assert isinstance(request, RemoteRequest)
        first = self.capabilities[found.pool]
        recording.remote = lambda error: remote_call(request, found, first, error, found.seconds)
        if found.scores is not None:
            recording.finished = scored(recording, found)
            return recording.finished
        shown = 0 if found.reported.output_tokens is not None else len(self.tokenizer.encode(found.text)) + 1
        recording.finished = finished(recording, found, shown)
        return recording.finished


@cache
def _bundled() -> tuple[Checkpoint, Tokenizer, GrammarCompiler]:
    """Returns the bundled checkpoint's tokenizer and grammars, which all remote engines of a process share."""
    checkpoint = locate(None)
    tokenizer, config = checkpoint.tokenizer(), checkpoint.config()
    return checkpoint, tokenizer, GrammarCompiler(tokenizer, config.vocab_size, config.eos_token_ids)
