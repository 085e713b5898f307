"""The public engine: text, messages and schemas in, text and values out.

Knows the tokenizer, grammars and plans, and turns one resolved `Call` into one `Result`, its span and its audit record.
Does not know how tokens are found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch

from trimode.engine.engine import TokenEngine
from trimode.engine.errors import RequestError
from trimode.engine.request import DecodeRequest, DecodeResult
from trimode.engine.tokenizer import Tokenizer
from trimode.engine.weights import load_model

from .audit import AuditFile
from .call import Call
from .checkpoint import Checkpoint, locate
from .errors import PolicyError
from .grammar import GrammarCompiler
from .record import Runtime
from .recording import Recording
from .resolve import StepContext, resolve
from .result import Result
from .schema import describe_tool, doubled_keys, schema_of
from .spec import STEP_KINDS, Settings, StepKind, options_of, sampling_of

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Engine:
    """One checkpoint in memory. `load` makes it; `generate` decodes; safe to share between threads."""

    def __init__(self, tokens: TokenEngine, tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
        self.tokens, self.tokenizer, self.checkpoint = tokens, tokenizer, checkpoint
        config = tokens.model.config
        self.grammars = GrammarCompiler(tokenizer, config.vocab_size, config.eos_token_ids)

    @classmethod
    def load(cls, source: str | Path | None = None, *, device: str = "cpu", dtype: str = "float32") -> Engine:
        """Loads a directory in the NLD format, a hub repository, or (None) the bundled reference checkpoint.

        Raises CheckpointError (what was expected, what was found) and RequestError (device or dtype not available).
        """
        if dtype not in _DTYPES:
            raise RequestError(f"dtype={dtype!r}: expected one of {', '.join(_DTYPES)}")
        checkpoint = locate(source)
        model = load_model(checkpoint.directory, _DTYPES[dtype], _device(device))
        tokenizer = Tokenizer.load(checkpoint.directory)
        return cls(TokenEngine(model, tokenizer.decode, tokenizer.vocab_size), tokenizer, checkpoint)

    @property
    def context(self) -> int:
        """Tokens that prompt and output may have together."""
        return self.tokens.model.config.max_position_embeddings

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        tools: Sequence[Any] = (),
        schema: Any = None,
        step: StepKind | None = None,
        mode: str | None = None,
        block_length: int | None = None,
        threshold: float | None = None,
        exact: bool | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] | str | None = None,
    ) -> Result:
        """Decodes one output for a raw `prompt` (no template) or for `messages` (the checkpoint's chat template).

        `schema`: a type, JSON Schema or tool list that the output is held to. `tools` are shown to the model; with
        step="tool_call" and no schema they are also the schema. Without `mode` the package's table chooses by `step`.
        Raises RequestError, PolicyError or SchemaError before decoding, where the call cannot be served as asked.
        """
        words = {
            "mode": mode, "block_length": block_length, "threshold": threshold, "exact": exact,
            "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed, "max_tokens": max_tokens,
            "stop": stop,
        }  # fmt: skip
        said = Settings.of({name: word for name, word in words.items() if word is not None}, "generate()")
        if step is not None and step not in STEP_KINDS:
            raise PolicyError(f"generate(): unknown step kind {step!r}; known: {', '.join(STEP_KINDS)}")
        kind = step or ("tool_call" if tools else "json" if schema is not None else "prose")
        target = tools if schema is None and kind == "tool_call" and tools else schema
        return self.run(
            Call(
                step="generate",
                kind=kind,
                plan=resolve(StepContext(kind=kind, name="generate"), (), [("call argument", said)]),
                prompt=prompt,
                messages=tuple(messages or ()),
                tools=tuple(describe_tool(tool) for tool in tools),
                schema=None if target is None else schema_of(target),
            )
        )

    def run(self, call: Call, audit: AuditFile | None = None) -> Result:
        """One resolved call, start to end, with its span and, given `audit`, its record."""
        with Recording(call, self.runtime, audit, self.tokenizer.decode) as recording:
            recording.request = self._request(call)
            recording.result = decoded = self.tokens.decode(recording.request)
            recording.notes += self._notes(call, decoded)
            value = None
            if call.schema is not None and decoded.finish_reason == "stop":
                recording.valid = False
                value = call.schema.parse(decoded.text)
                recording.valid = True
                recording.notes += [
                    f"key {key!r} is written twice in one object; its last value counts"
                    for key in doubled_keys(decoded.text)
                ]
        return Result(
            text=decoded.text,
            value=value,
            valid=recording.valid,
            decoded=decoded,
            plan=call.plan,
            audit_id=recording.id,
            notes=tuple(recording.notes),
        )

    @cached_property
    def runtime(self) -> Runtime:
        """What decodes here, with digests: part of every record."""
        return Runtime(
            model=self.checkpoint.name,
            model_sha256=self.checkpoint.model_sha256,
            tokenizer_sha256=self.checkpoint.tokenizer_sha256,
            device=str(self.tokens.device),
            dtype=str(self.tokens.dtype).removeprefix("torch."),
        )

    def _request(self, call: Call) -> DecodeRequest:
        settings = call.plan.settings
        if call.schema is not None and settings.stop:
            raise RequestError(
                "stop strings cannot be combined with a schema: they could cut the text before it is valid"
            )
        return DecodeRequest(
            prompt=tuple(self.encode(call)),
            options=options_of(call.plan.mode, settings),
            sampling=sampling_of(settings),
            max_tokens=0 if settings.max_tokens is None else settings.max_tokens,
            stop=settings.stop or (),
            constraint=None if call.schema is None else self.grammars.matcher(call.schema),
        )

    def encode(self, call: Call) -> list[int]:
        """Prompt ids of a call."""
        if (call.prompt is None) == (not call.messages):
            raise RequestError("pass either prompt= or messages=, not both and not neither")
        if call.prompt is not None:
            return self.tokenizer.encode_prompt(call.prompt)
        variables: dict[str, Any] = {"add_generation_prompt": True, "kind": call.kind}
        if call.tools:
            variables["tools"] = [{"type": "function", "function": tool} for tool in call.tools]
        if call.schema is not None and call.kind == "json":
            variables["schema"] = call.schema.document
        return self.tokenizer.encode_chat(call.messages, **variables)

    def _notes(self, call: Call, decoded: DecodeResult) -> list[str]:
        """What did not go as plainly asked."""
        notes = []
        if call.plan.mode == "linear_spec" and self.tokens.model.adapter is None:
            notes.append("drafts used the base weights: this checkpoint has no linear_spec_lora/ adapter")
        if call.schema is not None and decoded.finish_reason == "length":
            notes.append(f"cut by max_tokens={call.plan.settings.max_tokens} before the schema was complete")
        return notes


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(f"device={name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device
