"""The public engine: text, messages and schemas in, text and values out.

Knows one checkpoint and turns one resolved `Call` into one `Result`, its span and its audit record, at once or as a
stream, for threads and for tasks. Does not know how tokens are found.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self, Unpack

import torch

from trimode.engine.errors import RequestError
from trimode.engine.exactness import DESCRIPTIONS
from trimode.engine.forward.graphs import Progress
from trimode.engine.hardware import device_of, hardware_of
from trimode.engine.models.checkpoint import Checkpoint, locate
from trimode.engine.models.tokenizer import Tokenizer
from trimode.engine.token_engine import KV_BYTES, TokenEngine

from ..audit import Runtime
from ..conversation import checked_text
from ..grammar import GrammarCompiler
from ..selection import Auto, CostModel, DecodePlan, Layer, Settings, StepContext, Weights
from .calibrate import calibrated, known_cost, path_of
from .call import Call, CallOptions, call_of, choice_call
from .call_runner import LOG, CallRunner, awaited
from .result import Result, ScoredChoice
from .retries import aattempted, attempted
from .scope import current_scope
from .stream import StreamEvent
from .translator import Translator

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Engine(CallRunner):
    """One checkpoint in memory. `load` makes it. Threads and tasks may share it: their calls share its passes."""

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
        """Loads a checkpoint directory, a GGUF file, a model that `trimode fetch` brought ("smollm2"), a repository of
        the hub, or (None) the bundled reference checkpoint.

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
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise RequestError(f"dtype={dtype!r}: expected one of {', '.join(_DTYPES)}")
        if progress is not None and not callable(progress):
            raise RequestError(f"progress={progress!r}: expected a function of two numbers")
        began, checkpoint = time.perf_counter(), locate(source)
        model, tokenizer = checkpoint.load(_DTYPES[dtype], device_of(device))
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

    def __repr__(self) -> str:
        """One line: weights, device, arithmetic and context."""
        where = f"{self.tokens.device}, {str(self.tokens.dtype).removeprefix('torch.')}"
        return f"<Engine {self.checkpoint.name} on {where}, {self.kernels}, context of {self.context} tokens>"

    @property
    def kernels(self) -> str:
        """What does the arithmetic, and why; in what, where weights are rounded; and whether rows were found to agree.

        `native (the fastest here), rows checked to agree`.
        """
        runner, rounded = self.tokens.runner, ""
        if runner.precision:
            rounded = f", weights in {runner.quantize}"
        return f"{runner.kernels.name} ({runner.why}){rounded}, {DESCRIPTIONS[self.tokens.exactness]}"

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

    def generate(self, prompt: str | None = None, **words: Unpack[CallOptions]) -> Result:
        """Decodes one output for a raw `prompt` (no template) or `messages=`; `CallOptions` has all arguments.

        Raises RequestError, PolicyError or SchemaError before decoding, where the call cannot be served as asked;
        QueueFull under overload; CallCancelled where the engine is closed meanwhile.
        """
        return attempted(call_of("generate", prompt, self.planned, **words), self.run)

    async def agenerate(self, prompt: str | None = None, **words: Unpack[CallOptions]) -> Result:
        """`generate` for tasks. Cancelling the task frees what the call holds within one pass."""
        return await aattempted(call_of("agenerate", prompt, self.planned, **words), self.arun)

    def stream(self, prompt: str | None = None, **words: Unpack[CallOptions]) -> Generator[StreamEvent]:
        """`generate`, piece by piece. Leaving the loop early cancels the call. What was shown is not tried again."""
        return self.events(self.recording(call_of("stream", prompt, self.planned, **words), streamed=True))

    def astream(self, prompt: str | None = None, **words: Unpack[CallOptions]) -> AsyncGenerator[StreamEvent]:
        """`stream` for tasks. Close it (`contextlib.aclosing`) where the loop may be left early."""
        return self.aevents(self.recording(call_of("astream", prompt, self.planned, **words), streamed=True))

    def choice(
        self,
        options: Sequence[str],
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        prompt_ids: Sequence[int] | None = None,
        tools: Sequence[Any] = (),
    ) -> ScoredChoice:
        """The likeliest of `options` as the whole answer, scored in one pass, with the log-probability of each."""
        result = self.run(choice_call(options, prompt, messages, tools, prompt_ids, self.planned))
        assert result.choice is not None
        return result.choice

    async def achoice(
        self,
        options: Sequence[str],
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        prompt_ids: Sequence[int] | None = None,
        tools: Sequence[Any] = (),
    ) -> ScoredChoice:
        """`choice` for tasks."""
        result = await self.arun(choice_call(options, prompt, messages, tools, prompt_ids, self.planned))
        assert result.choice is not None
        return result.choice

    def infill(
        self,
        prefix: str,
        suffix: str,
        max_tokens: int | None = None,
        *,
        threshold: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> Result:
        """At most `max_tokens` tokens (16 where nobody says) between two raw texts, in one block.

        Their number is the model's choice. Raises PolicyError under `exact=True`, because a block is filled by
        diffusion.
        """
        call = call_of(
            "infill",
            prefix,
            self._planned_infill,
            mode="diffusion",
            max_tokens=max_tokens,
            threshold=threshold,
            temperature=temperature,
            seed=seed,
        )
        with current_scope().spending(call) as spending, self.recording(spending.call) as recording:
            recording.request, recording.notes = self.translator.infill(recording.call, checked_text(suffix, "suffix"))
            return self._counted(spending, self._finish(recording, awaited(self._submit(recording))))

    def _planned_infill(self, context: StepContext, given: Sequence[Layer]) -> DecodePlan:
        own = [("infill(), which fills a block", settings) for _, settings in given]
        return self.planned(context, own, [("infill()", Settings(max_tokens=16))])

    def tokenize(self, text: str, *, markup: bool = False) -> list[int]:
        """Token ids of `text`, for `prompt_ids=`. With `markup`, control markers in it are read as control tokens.

        That is what a rendered chat needs. Texts of strangers should not be among it: a marker that they typed would
        end a message.
        """
        text = checked_text(text, "text")
        return self.tokenizer.encode_markup(text) if markup else self.tokenizer.encode(text)

    def __reduce__(self) -> tuple[Any, ...]:
        raise RequestError(
            "an engine holds memory and a thread, and cannot be pickled or copied; load it in each process, or fork"
        )

    def close(self) -> None:
        """Cancels every call on its way and refuses later ones. Leaving `with Engine.load() as engine:` does it too."""
        self.tokens.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
            hardware=hardware_of(self.tokens.device),
            quantize=self.tokens.runner.quantize,
            exactness=self.tokens.exactness,
        )

    @cached_property
    def cost(self) -> CostModel:
        """Seconds a pass here: measured in a second or two when first asked for, then kept in the user's cache."""
        return calibrated(self.tokens, self.runtime)

    @cached_property
    def weights(self) -> Weights:
        """Architecture and modes, with the cost of a pass here if an earlier process measured it: found once, so that
        an engine chooses alike as long as it lives."""
        config = self.tokens.model.config
        cost = known_cost(self.tokens, self.runtime)
        return Weights(name=config.architecture, modes=config.family.modes, cost=cost)

    @cached_property
    def auto(self) -> Auto:
        """The policy "auto" of this checkpoint on this machine, with what earlier processes learned."""
        modes = self.tokens.model.config.family.modes
        return Auto.kept(self.cost, modes, path_of("auto", self.runtime))
