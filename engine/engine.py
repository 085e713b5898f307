"""The token engine: requests in token ids in, results in token ids out.

Knows one model, the scheduler loop and the prefix store. One pass serves every live request, whatever its mode: each
gives one segment, all segments run as one ragged forward, and each mode receives its own logits. Does not know text
(beyond the `decode` it is given for stop strings), schemas or spans.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

import torch
from torch import Tensor

from trimode.kernels import ops

from .cache import Cache, PrefixStore
from .constraint import Gate
from .errors import PromptTooLong, RequestError
from .families import check_mode
from .model import Transformer
from .modes import decode
from .output import Decode, Output
from .request import DecodeRequest, DecodeResult, Stats
from .run import Run
from .sampling import Sampler
from .segment import Logits, Passes, Segment


@dataclass(slots=True)
class Live:
    """One request on its way: its mode's generator, the segment that waits for a pass, and its cache."""

    request: DecodeRequest
    run: Run
    passes: Passes
    cache: Cache
    sampler: Sampler
    reused: int
    segment: Segment | None = None
    begin: float = field(default_factory=time.perf_counter)
    end: float = 0.0
    prefill_seconds: float = 0.0
    prefill_passes: int = 0
    forward_passes: int = 0

    def feed(self, logits: Logits | None) -> None:
        """Hands logits to the mode and takes its next segment; None starts it."""
        try:
            self.segment = next(self.passes) if logits is None else self.passes.send(logits)
        except StopIteration:
            self.segment, self.end = None, time.perf_counter()

    def count(self, segment: Segment, seconds: float) -> None:
        if segment.prefill:
            self.prefill_passes += 1
            self.prefill_seconds += seconds
        else:
            self.forward_passes += 1


class TokenEngine:
    """One model in memory. Thread-safe: one batch decodes at a time.

    `text` decodes output ids for stop strings; `vocab_size` is the tokenizer's, ids from there up are never chosen.
    """

    def __init__(self, model: Transformer, text: Decode, vocab_size: int, prefixes: int = 4) -> None:
        self.model, self.text = model, text
        self.device = model.encoder.norm.weight.device
        self.dtype = model.encoder.norm.weight.dtype
        self.banned = torch.arange(model.config.vocab_size, device=self.device) >= vocab_size
        if model.config.mask_token_id is not None:
            self.banned[model.config.mask_token_id] = True
        self._prefixes = PrefixStore(prefixes)
        self._lock = Lock()

    def decode(self, request: DecodeRequest) -> DecodeResult:
        return self.decode_many([request])[0]

    @torch.inference_mode()
    def decode_many(self, requests: Sequence[DecodeRequest]) -> list[DecodeResult]:
        """Decodes all requests together; each gets the tokens that it would get alone."""
        with self._lock:
            lives = [self._admit(request) for request in requests]
            while active := [live for live in lives if live.segment is not None]:
                self._pass(active)
            return [self._finish(live) for live in lives]

    def _admit(self, request: DecodeRequest) -> Live:
        config = self.model.config
        check_mode(config.architecture, request.options.mode)
        need = len(request.prompt) + request.max_tokens
        if need > config.max_position_embeddings:
            raise PromptTooLong(len(request.prompt), request.max_tokens, config.max_position_embeddings)
        if max(request.prompt) >= config.vocab_size or min(request.prompt) < 0:
            raise RequestError(f"prompt holds ids outside 0..{config.vocab_size - 1}")
        cache = Cache(config, need + 256, self.dtype, self.device)
        reused = self._prefixes.start(request.prompt, cache)
        ends = config.eos_token_ids
        run = Run(
            mode=request.options.mode,
            pending=list(request.prompt[reused:]),
            output=Output(request.max_tokens, request.stop, ends, self.text),
            gate=Gate(request.constraint, ends),
            mask_id=config.mask_id,
            adapter=self.model.adapter is not None,
            cached=reused,
        )
        sampler = Sampler(request.sampling, config.vocab_size, self.banned)
        live = Live(request, run, decode(run, request.options), cache, sampler, reused)
        live.feed(None)
        return live

    def _pass(self, lives: Sequence[Live]) -> None:
        """One ragged forward over the segments of `lives`, then each mode's next move."""
        begin = time.perf_counter()
        segments = [live.segment for live in lives if live.segment is not None]
        hidden = self._forward(segments, [live.cache for live in lives])
        rows = torch.cat([part[-segment.read :] for part, segment in zip(hidden, segments, strict=True)])
        logits = torch.split(self.model.head(rows), [segment.read for segment in segments])
        seconds = time.perf_counter() - begin
        for live, segment, part in zip(lives, segments, logits, strict=True):
            live.count(segment, seconds)
            live.feed(Logits(part, segment.first, live.sampler))

    def _forward(self, segments: Sequence[Segment], caches: Sequence[Cache]) -> tuple[Tensor, ...]:
        """Final hidden states, one [T, E] a segment."""
        sizes = [len(segment.tokens) for segment in segments]
        filler = -sum(sizes) % ops.ROW_TILE  # whole row tiles, so that no product has to pad for itself
        tokens = [token for segment in segments for token in segment.tokens] + [0] * filler
        positions = [p for s in segments for p in range(s.start, s.start + len(s.tokens))] + [0] * filler
        flags = [s.adapter for s, size in zip(segments, sizes, strict=True) for _ in range(size)] + [False] * filler

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = torch.zeros_like(q) if filler else torch.empty_like(q)
            at = 0
            for segment, size, cache in zip(segments, sizes, caches, strict=True):
                rows = slice(at, at + size)
                keys, values = cache.write(layer, segment.start, k[rows], v[rows])
                out[rows] = ops.attention(q[rows], keys, values, segment.start, segment.attention == "causal")
                at += size
            return out

        adapted = torch.tensor(flags, device=self.device) if any(flags) else None
        hidden = self.model(self._tensor(tokens), self._tensor(positions), attend, adapted)
        return torch.split(hidden[: sum(sizes)], sizes)

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=self.device)

    def _finish(self, live: Live) -> DecodeResult:
        output = live.run.output
        assert output.finish is not None
        known = [*live.request.prompt, *output.tokens][: live.run.cached]
        self._prefixes.put(known, live.cache)
        origins = "".join(r.origins for r in output.rounds)
        return DecodeResult(
            token_ids=tuple(output.tokens),
            text=output.text,
            finish_reason=output.finish,
            rounds=tuple(output.rounds),
            stats=Stats(
                prompt_tokens=len(live.request.prompt),
                cached_tokens=live.reused,
                output_tokens=len(output.tokens),
                prefill_passes=live.prefill_passes,
                forward_passes=live.forward_passes,
                drafted=sum(r.drafted for r in output.rounds),
                accepted=origins.count("a"),
                corrected=origins.count("c") + origins.count("r"),
                forced=origins.count("f"),
                repaired=origins.count("r"),
                seconds=live.end - live.begin,
                prefill_seconds=live.prefill_seconds,
            ),
        )
