"""The public engine: text, messages and schemas in, text and values out.

Knows one checkpoint and turns one resolved `Call` into one `Result`, its span and its audit record, at once or as a
stream, for threads and for asyncio tasks. Does not know how tokens are decoded.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Self, Unpack

import torch

from trimode.engine.connectors import provided
from trimode.engine.errors import RequestError
from trimode.engine.exactness import DESCRIPTIONS
from trimode.engine.forward.graphs import Progress
from trimode.engine.hardware import device_of, hardware_of
from trimode.engine.models.checkpoint import Checkpoint, locate, shipped_adapter
from trimode.engine.models.tokenizer import Tokenizer
from trimode.engine.result import Mode
from trimode.engine.token_engine import KV_BYTES, TokenEngine, packs

from ..audit import Runtime
from ..conversation import checked_text
from ..grammar import GrammarCompiler
from ..remote import Capabilities, RemoteOptions
from ..selection import Auto, CostModel, DecodePlan, Layer, Settings, StepContext, Weights
from .arguments import CallOptions, call_of
from .calibrate import calibrated, known_cost, path_of
from .call import Call
from .call_runner import LOG
from .recording import Recording
from .result import Result
from .retries import aattempted, attempted
from .scorer import Scorer
from .stream import StreamEvent
from .translator import Translator

_OF_ADAPTERS: Final[tuple[Mode, ...]] = ("linear_spec", "quadratic_spec")
_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Engine(Scorer):
    """One checkpoint in memory, made by `load`. Threads and tasks may share it: their calls are batched."""

    grammars: GrammarCompiler

    def __init__(self, tokens: TokenEngine, tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
        config = tokens.model.config
        self.grammars = GrammarCompiler(tokenizer, config.vocab_size, config.eos_token_ids)
        super().__init__(tokens, tokenizer, Translator(tokenizer, self.grammars, config))
        self.checkpoint = checkpoint

    @classmethod
    def load(
        cls,
        source: str | Path | None = None,
        *,
        adapter: str | Path | Literal[False] | None = None,
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
        """Loads a checkpoint directory, a GGUF file, a model downloaded by `trimode fetch` ("smollm2"), a repository of
        the hub, or (None) the bundled reference checkpoint.

        `adapter`: the directory or hub repository of a draft adapter for it, in PEFT's files; it acts on draft rows
        alone, so `ar` stays the model as it is, and the modes that draft become available (docs/adapters.md). None: the
        one that comes with this package for "smollm2", none for others; False: none.
        `kv_bytes`: bytes for keys and values of running calls and of cached prefixes. `queue`: how many calls may wait
        for that memory. `kernels`: "auto" takes the fastest exact ones that run on this machine; "native" (C++, CPU,
        fp32), "native-bf16" and "native-int8" (rows of products rounded), "triton" (CUDA), "torch" and "torch-fast"
        request one; `engine.kernels` tells which is used and why. `quantize`: "int8", "int4" or "fp8" stores the
        blocks' matrices in eight or four bits, `quantize_head` the LM head's too: the tokens differ from those of the
        original weights, but are the same in all exact modes; "no" makes matrices whole that a GGUF file has in blocks.
        `graphs`: runs passes as captured CUDA graphs where their shape fits one (None: on CUDA devices); they are
        captured here, and `progress(done, all)` is called for each. Raises CheckpointError (what was expected, what was
        found), RequestError (device, dtype, kernels or precision not available), DeviceMemoryExceeded (what needs how
        much) and RowsDisagree (kernels that are not exact on this machine; "torch-fast" does not promise to be).
        """
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise RequestError(f"dtype={dtype!r}: expected one of {', '.join(_DTYPES)}")
        if progress is not None and not callable(progress):
            raise RequestError(f"progress={progress!r}: expected a function of two numbers")
        given = shipped_adapter(source) if adapter is None else adapter or None
        began, checkpoint = time.perf_counter(), locate(source, given)
        place, kind = device_of(device), _DTYPES[dtype]
        model, tokenizer = checkpoint.load(kind, place, packs(place, kind, kernels, quantize, quantize_head))
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
        engine = cls(tokens, tokenizer, checkpoint)
        LOG.info("loaded %s in %.1f s", engine, time.perf_counter() - began)
        return engine

    @classmethod
    def remote(cls, url: str, kind: str = "openai", **options: Unpack[RemoteOptions]) -> Engine:
        """Connects to a server that decodes elsewhere; steps, sessions, budgets, policies and records are the same.

        `kind`: "vllm", "sglang", "llamacpp", "trimode" (`trimode serve`), "openai" for any server of that API, or
        "tensorrt-llm", "tgi" and "mlx", which are known by their documentation alone. `RemoteOptions` lists the other
        arguments. The server is asked at once what it is: raises RemoteError where no pool answers, RequestError for
        arguments that cannot be used.
        """
        found: Engine = provided("remote")(url, kind, options)
        return found

    def __repr__(self) -> str:
        """One line: weights, device, arithmetic and context."""
        where = f"{self.tokens.device}, {str(self.tokens.dtype).removeprefix('torch.')}"
        adapter = f" with adapter {self.checkpoint.adapter_name}" if self.checkpoint.adapter_name else ""
        return f"<Engine {self.checkpoint.name}{adapter} on {where}, {self.kernels}, context of {self.context} tokens>"

    @property
    def kernels(self) -> str:
        """The kernels in use and why, the precision of quantized weights, whether the kernels were found to be exact.

        For example `native (the fastest here), rows checked to agree`.
        """
        runner, rounded = self.tokens.runner, ""
        if runner.precision:
            rounded = f", weights in {runner.quantize}"
        elif runner.forms:
            rounded = f", blocks as stored: {', '.join(runner.forms)}"
        return f"{runner.kernels.name} ({runner.why}){rounded}, {DESCRIPTIONS[self.tokens.exactness]}"

    @property
    def graphs(self) -> str:
        """Summary of graph replay: kind and number of graphs, passes with and without replay so far; or "off"."""
        graphs = self.tokens.graphs
        if graphs is None:
            return "off"
        unfit = ", ".join(f"{name} {count}" for name, count in sorted(graphs.unfit.items()))
        ran = f"{graphs.replayed} passes replayed, {graphs.unfit.total()} without"
        return f"{graphs.captured} {graphs.name}: {ran}" + (f" ({unfit})" if unfit else "")

    @property
    def capabilities(self) -> Mapping[str, Capabilities]:
        """What each pool of a server can do and promise, by its name; empty for an engine in this process."""
        return {}

    @property
    def context(self) -> int:
        """Maximum number of tokens of prompt and output together."""
        return self.tokens.model.config.max_position_embeddings

    def generate(self, prompt: str | None = None, **options: Unpack[CallOptions]) -> Result:
        """Decodes one output for a raw `prompt` (no template) or `messages=`; `CallOptions` lists all arguments.

        Raises RequestError, PolicyError or SchemaError before decoding, if the call cannot be served as asked;
        QueueFull under overload; CallCancelled if the engine is closed meanwhile.
        """
        return attempted(call_of("generate", prompt, self.planned, **options), self.run)

    async def agenerate(self, prompt: str | None = None, **options: Unpack[CallOptions]) -> Result:
        """`generate` for asyncio tasks. Cancelling the task frees the call's memory within one pass."""
        return await aattempted(call_of("agenerate", prompt, self.planned, **options), self.arun)

    def stream(self, prompt: str | None = None, **options: Unpack[CallOptions]) -> Generator[StreamEvent]:
        """Yields the output of `generate` in pieces. Leaving the loop early cancels the call. Streams never retry."""
        return self.events(self.recording(call_of("stream", prompt, self.planned, **options), streamed=True))

    def astream(self, prompt: str | None = None, **options: Unpack[CallOptions]) -> AsyncGenerator[StreamEvent]:
        """`stream` for asyncio tasks. Close it (`contextlib.aclosing`) where the loop may be left early."""
        return self.aevents(self.recording(call_of("astream", prompt, self.planned, **options), streamed=True))

    def infill(
        self,
        prefix: str,
        suffix: str,
        max_tokens: int | None = None,
        *,
        threshold: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        cache_scope: str | None = None,
    ) -> Result:
        """Fills in at most `max_tokens` tokens (default 16) between two raw texts, in one block.

        The model chooses their number. Raises PolicyError under `exact=True`, because a block is filled by
        diffusion.
        """
        call = call_of(
            "infill",
            prefix,
            self._planned_infill,
            step="prose",
            mode="diffusion",
            max_tokens=max_tokens,
            threshold=threshold,
            temperature=temperature,
            seed=seed,
            cache_scope=cache_scope,
        )

        def prepare(recording: Recording) -> None:
            recording.request, recording.notes = self.translator.infill(recording.call, checked_text(suffix, "suffix"))

        return self._run(call, prepare)

    def _planned_infill(self, context: StepContext, given: Sequence[Layer]) -> DecodePlan:
        own = [("infill(), which fills a block", settings) for _, settings in given]
        return self.planned(context, own, [("infill()", Settings(max_tokens=16))])

    def tokenize(self, text: str, *, markup: bool = False) -> list[int]:
        """Returns the token ids of `text`, for `prompt_ids=`. `markup`: parse control markers in it as control tokens.

        A rendered chat needs `markup`. Do not use it on untrusted text, because a marker typed there would end a
        message.
        """
        text = checked_text(text, "text")
        return self.tokenizer.encode_markup(text) if markup else self.tokenizer.encode(text)

    def __reduce__(self) -> tuple[Any, ...]:
        raise RequestError(
            "an engine holds memory and a thread, and cannot be pickled or copied; load it in each process, or fork"
        )

    def close(self) -> None:
        """Cancels all running calls and refuses later ones. Leaving `with Engine.load() as engine:` does it too."""
        self.tokens.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def encode(self, call: Call) -> list[int]:
        """Returns the prompt ids of a call."""
        return self.translator.encode(call)

    @cached_property
    def runtime(self) -> Runtime:
        """Model, tokenizer, device and kernels, with digests: part of every record."""
        return Runtime(
            model=self.checkpoint.name,
            model_sha256=self.checkpoint.model_sha256,
            tokenizer_sha256=self.checkpoint.tokenizer_sha256,
            device=str(self.tokens.device),
            dtype=str(self.tokens.dtype).removeprefix("torch."),
            kernels=self.tokens.runner.kernels.name,
            hardware=hardware_of(self.tokens.device),
            quantize=self.tokens.runner.quantize,
            exactness=self.tokens.exactness,
            adapter=self.checkpoint.adapter_name,
            adapter_sha256=self.checkpoint.adapter_sha256,
        )

    @cached_property
    def cost(self) -> CostModel:
        """Predicts seconds per pass on this machine: measured in a second or two on first use, then cached on disk."""
        return calibrated(self.tokens, self.runtime)

    @cached_property
    def weights(self) -> Weights:
        """Architecture and modes, and the cost model if an earlier process measured it. Looked up once, because an
        engine has to choose modes in the same way for its whole life."""
        config = self.tokens.model.config
        cost = known_cost(self.tokens, self.runtime)
        bundled = self.checkpoint.adapter is not None and self.checkpoint.adapter == shipped_adapter(
            self.checkpoint.name
        )
        unasked = _OF_ADAPTERS if bundled else ()
        return Weights(name=config.architecture, modes=config.modes, cost=cost, unasked=unasked)

    @cached_property
    def auto(self) -> Auto:
        """The policy "auto" for this checkpoint and machine, with the evidence of earlier processes."""
        modes = self.tokens.model.config.modes
        return Auto.kept(self.cost, modes, path_of("auto", self.runtime))
