"""The public engine: text, messages and schemas in, text and values out.

Knows one checkpoint and turns one resolved `Call` into one `Result`, its span and its audit record, at once or as a
stream, for threads and for tasks. Does not know how tokens are found.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Unpack

import torch

from trimode.engine.engine import KV_BYTES, TokenEngine, result_of
from trimode.engine.errors import RequestError
from trimode.engine.request import DecodeRequest, DecodeResult, ScoreRequest
from trimode.engine.scheduler import Update
from trimode.engine.tokenizer import Tokenizer
from trimode.engine.weights import load_model

from .audit import AuditFile
from .auto import Auto
from .calibrate import calibrated, path_of
from .call import Call, Words, call_of
from .checkpoint import Checkpoint, locate
from .cost import CostModel
from .grammar import GrammarCompiler
from .record import Runtime
from .recording import Recording
from .requests import Translator
from .result import Result, ScoredChoice
from .stream import Growing, StreamEvent

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Engine:
    """One checkpoint in memory. `load` makes it. Threads and tasks may share it: their calls share its passes."""

    def __init__(self, tokens: TokenEngine, tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
        self.tokens, self.tokenizer, self.checkpoint = tokens, tokenizer, checkpoint
        config = tokens.model.config
        self.grammars = GrammarCompiler(tokenizer, config.vocab_size, config.eos_token_ids)
        self.translator = Translator(tokenizer, self.grammars, config)

    @classmethod
    def load(
        cls,
        source: str | Path | None = None,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        kv_bytes: int = KV_BYTES,
        queue: int = 1024,
        kernels: str = "auto",
    ) -> Engine:
        """Loads a directory in the NLD format, a hub repository, or (None) the bundled reference checkpoint.

        `kv_bytes`: memory for keys and values, of running calls and of prefixes kept for later ones. `queue`: calls
        that may wait for that memory. `kernels`: "auto" takes the fastest exact ones that run here; "native" (C++,
        CPU, fp32), "torch" and "torch-fast" insist; `engine.kernels` says which and why. Raises CheckpointError (what
        was expected, what was found) and RequestError (device, dtype or kernels not available).
        """
        if dtype not in _DTYPES:
            raise RequestError(f"dtype={dtype!r}: expected one of {', '.join(_DTYPES)}")
        checkpoint = locate(source)
        model = load_model(checkpoint.directory, _DTYPES[dtype], _device(device))
        tokenizer = Tokenizer.load(checkpoint.directory)
        tokens = TokenEngine(
            model, tokenizer.decode, tokenizer.vocab_size, kv_bytes=kv_bytes, queue=queue, kernels=kernels
        )
        return cls(tokens, tokenizer, checkpoint)

    @property
    def kernels(self) -> str:
        """What does the arithmetic, and why: `native (the fastest here)`."""
        return f"{self.tokens.runner.kernels.name} ({self.tokens.runner.why})"

    @property
    def context(self) -> int:
        """Tokens that prompt and output may have together."""
        return self.tokens.model.config.max_position_embeddings

    def generate(self, prompt: str | None = None, **words: Unpack[Words]) -> Result:
        """Decodes one output for a raw `prompt` (no template), or for `messages=` and whatever else `Words` names.

        Raises RequestError, PolicyError or SchemaError before decoding, where the call cannot be served as asked;
        QueueFull under overload; CallCancelled where the engine is closed meanwhile.
        """
        return self.run(call_of("generate", prompt, **words))

    async def agenerate(self, prompt: str | None = None, **words: Unpack[Words]) -> Result:
        """`generate` for tasks. Cancelling the task frees what the call holds within one pass."""
        return await self.arun(call_of("agenerate", prompt, **words))

    def stream(self, prompt: str | None = None, **words: Unpack[Words]) -> Generator[StreamEvent]:
        """`generate`, piece by piece. Leaving the loop early cancels the call."""
        return self._stream(call_of("stream", prompt, **words))

    def astream(self, prompt: str | None = None, **words: Unpack[Words]) -> AsyncGenerator[StreamEvent]:
        """`stream` for tasks. Close it (`contextlib.aclosing`) where the loop may be left early."""
        return self._astream(call_of("astream", prompt, **words))

    def choice(
        self,
        options: Sequence[str],
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        tools: Sequence[Any] = (),
    ) -> ScoredChoice:
        """The likeliest of `options` as the whole answer, scored in one pass, with the log-probability of each."""
        if len(set(options)) < len(options) or not options:
            raise RequestError(f"options={list(options)!r}: expected at least one string, each of them once")
        call = call_of("choice", prompt, messages=messages, tools=tools, step="prose")
        candidates = tuple(tuple(self.tokenizer.encode(option)) for option in options)
        scored = self.tokens.decode(ScoreRequest(prompt=tuple(self.encode(call)), candidates=candidates))
        return ScoredChoice(options=tuple(options), logprobs=scored.logprobs, stats=scored.stats)

    def infill(
        self,
        prefix: str,
        suffix: str,
        max_tokens: int = 16,
        *,
        threshold: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> Result:
        """At most `max_tokens` tokens between two raw texts, in one block; their number is the model's choice."""
        call = call_of(
            "infill",
            prefix,
            mode="diffusion",
            max_tokens=max_tokens,
            threshold=threshold,
            temperature=temperature,
            seed=seed,
        )
        with self._recording(call) as recording:
            recording.request, recording.notes = self.translator.infill(call, suffix)
            return self._finish(recording, self.tokens.decode(recording.request))

    def run(self, call: Call, audit: AuditFile | None = None) -> Result:
        """One resolved call, start to end, with its span and, given `audit`, its record."""
        with self._recording(call, audit) as recording:
            return self._finish(recording, self.tokens.decode(self._prepare(recording)))

    async def arun(self, call: Call, audit: AuditFile | None = None) -> Result:
        """`run` for tasks."""
        with self._recording(call, audit) as recording:
            return self._finish(recording, await self.tokens.adecode(self._prepare(recording)))

    def close(self) -> None:
        """Cancels every call on its way and refuses later ones."""
        self.tokens.close()

    def encode(self, call: Call) -> list[int]:
        """Prompt ids of a call."""
        return self.translator.encode(call)

    @cached_property
    def runtime(self) -> Runtime:
        """What decodes here, with digests: part of every record."""
        return Runtime(
            model=self.checkpoint.name,
            model_sha256=self.checkpoint.model_sha256,
            tokenizer_sha256=self.checkpoint.tokenizer_sha256,
            device=str(self.tokens.device),
            dtype=str(self.tokens.dtype).removeprefix("torch."),
            kernels=self.tokens.runner.kernels.name,
        )

    @cached_property
    def cost(self) -> CostModel:
        """Seconds a pass here: measured in about a second when first asked for, then kept in the user's cache."""
        return calibrated(self.tokens, self.runtime)

    @cached_property
    def auto(self) -> Auto:
        """The policy "auto" of this checkpoint on this machine, with what earlier processes learned."""
        modes = self.tokens.model.config.family.modes
        return Auto.kept(self.cost, modes, path_of("auto", self.runtime))

    @property
    def live(self) -> int:
        """Calls that run or wait now."""
        return self.tokens.scheduler.running + self.tokens.scheduler.waiting

    def _stream(self, call: Call) -> Generator[StreamEvent]:
        updates: SimpleQueue[Update | None] = SimpleQueue()
        with self._recording(call) as recording:
            request = self._prepare(recording)
            growing = Growing(self.tokenizer.decode, request.stop)
            future = self.tokens.submit(request, updates.put)
            future.add_done_callback(lambda _: updates.put(None))
            try:
                while (update := updates.get()) is not None:
                    yield from growing.feed(update)
                result = self._finish(recording, result_of(future))
            finally:
                future.cancel()
        yield growing.last(result)

    async def _astream(self, call: Call) -> AsyncGenerator[StreamEvent]:
        updates: asyncio.Queue[Update | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(update: Update | None) -> None:
            loop.call_soon_threadsafe(updates.put_nowait, update)

        with self._recording(call) as recording:
            request = self._prepare(recording)
            growing = Growing(self.tokenizer.decode, request.stop)
            future = self.tokens.submit(request, put)
            future.add_done_callback(lambda _: put(None))
            try:
                while (update := await updates.get()) is not None:
                    for event in growing.feed(update):
                        yield event
                result = self._finish(recording, result_of(future))
            finally:
                future.cancel()
        yield growing.last(result)

    def _recording(self, call: Call, audit: AuditFile | None = None) -> Recording:
        return Recording(self._timed(call), self.runtime, audit, self.tokenizer.decode)

    def _timed(self, call: Call) -> Call:
        """The call itself; with a deadline, and a mode that nobody named, in the fastest mode that is allowed."""
        plan = call.plan
        if plan.settings.deadline is None or plan.named or plan.forecast is not None:
            return call
        context = replace(plan.context, others=self.live)
        return replace(call, plan=self.auto.advise(replace(plan, context=context)))

    def _prepare(self, recording: Recording) -> DecodeRequest:
        recording.request = self.translator.request(recording.call)
        return recording.request

    def _finish(self, recording: Recording, decoded: DecodeResult) -> Result:
        call, request = recording.call, recording.request
        assert request is not None
        recording.result = decoded
        call.plan.policy.observe(call.plan, decoded)
        recording.notes += self._notes(call, decoded)
        recording.valid = False if call.schema is not None and decoded.finish_reason == "stop" else None
        value, recording.valid, notes = self.translator.value(call, request, decoded)
        recording.notes += notes
        parts = None if request.thinking is None else self.translator.parts(request.thinking, decoded.token_ids)
        return Result(
            text=decoded.text,
            thinking=None if parts is None else parts[0],
            answer=decoded.text if parts is None else parts[1],
            value=value,
            valid=recording.valid,
            decoded=decoded,
            plan=call.plan,
            audit_id=recording.id,
            notes=tuple(recording.notes),
        )

    def _notes(self, call: Call, decoded: DecodeResult) -> list[str]:
        """What did not go as plainly asked."""
        notes = list(call.plan.notes)
        deadline, took = call.plan.settings.deadline, decoded.stats.seconds
        if deadline is not None and took > deadline:
            notes.append(f"deadline of {deadline:g} s missed: the call took {took:.2g} s")
        drafted = {made.mode for made in decoded.rounds} & {"linear_spec", "quadratic_spec"}
        if drafted and self.tokens.model.adapter is None:
            notes.append("drafts used the base weights: this checkpoint has no linear_spec_lora/ adapter")
        if decoded.forced_close:
            notes.append(f"ended by force to stay within max_tokens={call.plan.settings.max_tokens}")
        return notes


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(f"device={name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device
