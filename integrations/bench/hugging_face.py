"""The peer `hf` of `trimode bench`: the same weights in Hugging Face's `generate`, with and without prompt lookup.

Knows transformers, which is imported only when the peer is requested. Does not know our engine. Greedy, batch 1, with a
key-value cache, in the process that measures.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor

from .systems import Question, Reading, SystemUnderTest

LOOKUP_TOKENS: Final = 10
_PROBE_TOKENS: Final = 16


class HuggingFace:
    """A directory of weights in transformers. `cache` is the faster of its two cache kinds here."""

    cache: str

    def __init__(self, source: Path, dtype: torch.dtype, max_tokens: int, probe: Question) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        auto: Any = AutoModelForCausalLM
        self.model: Any = auto.from_pretrained(source, dtype=dtype).eval()
        self.max_tokens = max_tokens
        # generate() requires an id for padding; at batch 1 it is never used.
        ends: int | list[int] = self.model.generation_config.eos_token_id
        self.pad: int = ends[0] if isinstance(ends, list) else ends
        self.cache = "dynamic"
        self.cache = min(("dynamic", "static"), key=lambda kind: self._probe(kind, probe))

    def system(self, name: str) -> SystemUnderTest:
        lookup = name == "hf-lookup"
        return SystemUnderTest(name, "peer", lambda question: self.run(question.prompt, lookup))

    def run(self, prompt: Sequence[int], lookup: bool) -> Reading:
        """Runs one call. Prompt lookup works with the dynamic cache only."""
        more = {"prompt_lookup_num_tokens": LOOKUP_TOKENS} if lookup else {}
        static = self.cache == "static" and not lookup
        return self._generate(
            prompt, self.max_tokens, {**more, **({"cache_implementation": "static"} if static else {})}
        )

    def _probe(self, kind: str, question: Question) -> float:
        """Returns the median seconds of a short call, after a first one for warm-up."""
        more = {"cache_implementation": "static"} if kind == "static" else {}
        runs = [self._generate(question.prompt, min(_PROBE_TOKENS, self.max_tokens), more) for _ in range(4)]
        return median(reading.seconds for reading in runs[1:])

    def _generate(self, prompt: Sequence[int], max_tokens: int, more: dict[str, Any]) -> Reading:
        clock = Clock()
        begin = time.perf_counter()
        ids = torch.tensor([list(prompt)])
        with torch.inference_mode():
            found: Tensor = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                use_cache=True,
                max_new_tokens=max_tokens,
                pad_token_id=self.pad,
                stopping_criteria=[clock],
                **more,
            )
        end = time.perf_counter()
        output = tuple(found[0, len(prompt) :].tolist())
        return Reading(
            ids=output,
            seconds=end - begin,
            prefill_seconds=clock.first - begin,
            decode_seconds=end - clock.first,
            decode_tokens=found.shape[1] - clock.length,
            passes=clock.passes - 1,
        )


class Clock:
    """A stopping criterion that never stops: it notes the time of the first tokens, and counts passes."""

    first: float
    length: int
    passes: int

    def __init__(self) -> None:
        self.first, self.length, self.passes = 0.0, 0, 0

    def __call__(self, input_ids: Tensor, _scores: object, **_: object) -> Tensor:
        if not self.passes:
            self.first, self.length = time.perf_counter(), int(input_ids.shape[1])
        self.passes += 1
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
