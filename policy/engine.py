"""The public engine: text, messages and schemas in, text and values out.

Knows one checkpoint and turns one resolved `Call` into one `Result`, its span and its audit record, at once or as a
stream, for threads and for tasks. Does not know how tokens are found.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Unpack

import torch

from trimode.engine.engine import KV_BYTES, TokenEngine, result_of
from trimode.engine.errors import RequestError
from trimode.engine.exactness import WORDS
from trimode.engine.graphs import Progress
from trimode.engine.request import DecodeRequest, ScoreRequest
from trimode.engine.result import DecodeResult, ScoreResult
from trimode.engine.scheduler import Update
from trimode.engine.tokenizer import Tokenizer
from trimode.engine.weights import load_model

from .auto import Auto
from .calibrate import calibrated, path_of
from .call import Call, Words, call_of
from .checked import aattempted, attempted
from .checkpoint import Checkpoint, locate
from .cost import CostModel
from .finish import finished
from .grammar import GrammarCompiler
from .record import Runtime
from .recording import Recording
from .requests import Translator
from .result import Result, ScoredChoice
from .round_record import PieceOf
from .stream import Growing, StreamEvent

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Engine:
    """One checkpoint in memory. `load` makes it. Threads and tasks may share it: their calls share its passes."""

    def __init__(self, tokens: TokenEngine, tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
        self.tokens, self.tokenizer, self.checkpoint = tokens, tokenizer, checkpoint
        config = tokens.model.config
        self.grammars = GrammarCompiler(tokenizer, config.vocab_size, config.eos_token_ids)
        self.translator = Translator(tokenizer, self.grammars, config)
        self._piece: PieceOf = lru_cache(maxsize=1 << 16)(lambda token: tokenizer.decode([token]))

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
        quantize: str | None = None,
        quantize_head: bool = False,
        graphs: bool | None = None,
        progress: Progress | None = None,
    ) -> Engine:
        """Loads a directory in the NLD format, a hub repository, or (None) the bundled reference checkpoint.

        `kv_bytes`: memory for keys and values, of running calls and of prefixes kept for later ones. `queue`: calls
        that may wait for that memory. `kernels`: "auto" takes the fastest exact ones that run here; "native" (C++,
        CPU, fp32), "native-bf16" (rows of products rounded), "triton" (CUDA), "torch" and "torch-fast" insist;
        `engine.kernels` says which and why. `quantize`: "int8" or "fp8" keeps the blocks' matrices in eight bits, with
        a scale per output, `quantize_head` the head's too: not the tokens of whole weights, but the same ones in all
        exact modes. `graphs`: passes run as captured CUDA graphs where they fit one (None: on CUDA devices), which are
        captured here; `progress(done, all)` hears of each. Raises CheckpointError (what was expected, what was found),
        RequestError (device, dtype, kernels or precision not available), DeviceMemoryExceeded (what needs how much) and
        RowsDisagree (kernels that cannot keep the exact promise on this machine; "torch-fast" does not give it).
        """
        if dtype not in _DTYPES:
            raise RequestError(f"dtype={dtype!r}: expected one of {', '.join(_DTYPES)}")
        checkpoint = locate(source)
        model = load_model(checkpoint.directory, _DTYPES[dtype], _device(device))
        tokenizer = Tokenizer.load(checkpoint.directory)
        tokens = TokenEngine(
            model,
            tokenizer.decode,
            tokenizer.vocab_size,
            kv_bytes=kv_bytes,
            queue=queue,
            kernels=kernels,
            quantize=quantize,
            quantize_head=quantize_head,
            graphs=graphs,
            progress=progress,
        )
        return cls(tokens, tokenizer, checkpoint)

    @property
    def kernels(self) -> str:
        """What does the arithmetic, and why; in what, where weights are rounded; and whether rows were found to agree.

        `native (the fastest here), rows checked to agree`.
        """
        runner, rounded = self.tokens.runner, ""
        if runner.precision:
            rounded = f", weights in {runner.quantize}"
        return f"{runner.kernels.name} ({runner.why}){rounded}, {WORDS[self.tokens.exactness]}"

    @property
    def graphs(self) -> str:
        """What passes run as, and how many did since the engine was loaded."""
        graphs = self.tokens.graphs
        if graphs is None:
            return "off"
        unfit = ", ".join(f"{name} {count}" for name, count in sorted(graphs.unfit.items()))
        ran = f"{graphs.replayed} passes replayed, {graphs.unfit.total()} without"
        return f"{graphs.captured} {graphs.name}: {ran}" + (f" ({unfit})" if unfit else "")

    @property
    def context(self) -> int:
        """Tokens that prompt and output may have together."""
        return self.tokens.model.config.max_position_embeddings

    def generate(self, prompt: str | None = None, **words: Unpack[Words]) -> Result:
        """Decodes one output for a raw `prompt` (no template), or for `messages=` and whatever else `Words` names.

        Raises RequestError, PolicyError or SchemaError before decoding, where the call cannot be served as asked;
        QueueFull under overload; CallCancelled where the engine is closed meanwhile.
        """
        return attempted(call_of("generate", prompt, **words), self.run)

    async def agenerate(self, prompt: str | None = None, **words: Unpack[Words]) -> Result:
        """`generate` for tasks. Cancelling the task frees what the call holds within one pass."""
        return await aattempted(call_of("agenerate", prompt, **words), self.arun)

    def stream(self, prompt: str | None = None, **words: Unpack[Words]) -> Generator[StreamEvent]:
        """`generate`, piece by piece. Leaving the loop early cancels the call. What was shown is not tried again."""
        return self.events(self.recording(call_of("stream", prompt, **words), streamed=True))

    def astream(self, prompt: str | None = None, **words: Unpack[Words]) -> AsyncGenerator[StreamEvent]:
        """`stream` for tasks. Close it (`contextlib.aclosing`) where the loop may be left early."""
        return self.aevents(self.recording(call_of("astream", prompt, **words), streamed=True))

    def choice(
        self,
        options: Sequence[str],
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        tools: Sequence[Any] = (),
    ) -> ScoredChoice:
        """The likeliest of `options` as the whole answer, scored in one pass, with the log-probability of each."""
        result = self.run(self._choice_call(options, prompt, messages, tools))
        assert result.choice is not None
        return result.choice

    async def achoice(
        self,
        options: Sequence[str],
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        tools: Sequence[Any] = (),
    ) -> ScoredChoice:
        """`choice` for tasks."""
        result = await self.arun(self._choice_call(options, prompt, messages, tools))
        assert result.choice is not None
        return result.choice

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
        with self.recording(call) as recording:
            recording.request, recording.notes = self.translator.infill(call, suffix)
            return self._finish(recording, self._await(self._submit(recording)))

    def run(self, call: Call) -> Result:
        """One resolved call, start to end, with its span and, in a session that keeps them, its record.

        Raises CheckFailed where `call` asks for "checked" and this attempt does not hold; nothing is tried again here.
        """
        with self.recording(call) as recording:
            self._prepare(recording)
            return self._finish(recording, self._await(self._submit(recording)))

    async def arun(self, call: Call) -> Result:
        """`run` for tasks."""
        with self.recording(call) as recording:
            self._prepare(recording)
            return self._finish(recording, await asyncio.wrap_future(self._submit(recording)))

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
            hardware=_hardware(self.tokens.device),
            quantize=self.tokens.runner.quantize,
            exactness=self.tokens.exactness,
        )

    @cached_property
    def cost(self) -> CostModel:
        """Seconds a pass here: measured in a second or two when first asked for, then kept in the user's cache."""
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

    def events(self, recording: Recording) -> Generator[StreamEvent]:
        """`run`, piece by piece, wherever it is read. What was shown is not tried again."""
        updates: SimpleQueue[Update | None] = SimpleQueue()
        with recording:
            request = self._prepare(recording)
            growing = Growing(self.tokenizer.decode, request.stop)
            future = self._submit(recording, updates.put)
            future.add_done_callback(lambda _: updates.put(None))
            try:
                while (update := updates.get()) is not None:
                    for event in growing.feed(update):
                        recording.first_chunk()
                        yield event
                result = self._finish(recording, result_of(future))
            finally:
                future.cancel()
        yield growing.last(result)

    async def aevents(self, recording: Recording) -> AsyncGenerator[StreamEvent]:
        """`events` for tasks."""
        updates: asyncio.Queue[Update | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(update: Update | None) -> None:
            loop.call_soon_threadsafe(updates.put_nowait, update)

        with recording:
            request = self._prepare(recording)
            growing = Growing(self.tokenizer.decode, request.stop)
            future = self._submit(recording, put)
            future.add_done_callback(lambda _: put(None))
            try:
                while (update := await updates.get()) is not None:
                    for event in growing.feed(update):
                        recording.first_chunk()
                        yield event
                result = self._finish(recording, result_of(future))
            finally:
                future.cancel()
        yield growing.last(result)

    def recording(self, call: Call, streamed: bool = False) -> Recording:
        """What `events` takes: it belongs to the session in which this is called."""
        return Recording(self._timed(call), self.runtime, self.tokenizer.decode, self._piece, streamed)

    def _timed(self, call: Call) -> Call:
        """The call itself; with a deadline, and a mode that nobody named, in the fastest mode that is allowed."""
        plan = call.plan
        if call.kind == "choice" or plan.settings.deadline is None or plan.named or plan.forecast is not None:
            return call
        context = replace(plan.context, others=self.live)
        return replace(call, plan=self.auto.advise(replace(plan, context=context)))

    def _choice_call(
        self,
        options: Sequence[str],
        prompt: str | None,
        messages: Sequence[Mapping[str, Any]] | None,
        tools: Sequence[Any],
    ) -> Call:
        if len(set(options)) < len(options) or not options or not all(options):
            raise RequestError(
                f"options={list(options)!r}: expected non-empty strings, at least one, each of them once"
            )
        schema = {"enum": list(options)}
        return call_of("choice", prompt, messages=messages, tools=tools, step="choice", schema=schema)

    def _prepare(self, recording: Recording) -> DecodeRequest | ScoreRequest:
        call = recording.call
        recording.request = self.translator.request(call)
        recording.notes += call.notes
        if call.schema is not None:
            dropped = self.translator.held(call).dropped
            recording.notes += [one.note for one in dropped]
            recording.guarantee = "checked" if dropped or call.retried else "grammar"
        return recording.request

    def _submit(self, recording: Recording, watch: Callable[[Update], None] | None = None) -> Future[Any]:
        assert recording.request is not None
        return self.tokens.submit(recording.request, watch)

    def _await(self, future: Future[Any]) -> Any:
        try:
            return result_of(future)
        finally:
            future.cancel()  # where the caller was interrupted

    def _finish(self, recording: Recording, found: DecodeResult | ScoreResult) -> Result:
        return finished(self.translator, recording, found, self.tokens.model.adapter is not None)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(f"device={name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def _hardware(device: torch.device) -> str:
    """What arithmetic on `device` depends on beyond the software: `x86_64 AVX512`, or the accelerator's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
