"""OpenVINO GenAI as a peer, which reads GGUF files of some models and types.

Knows openvino_genai. Greedy, for latency; arithmetic in fp32 where our weights are, else as it chooses.
"""

from __future__ import annotations

import os
import time
from typing import Any, Final

import numpy as np
import openvino
import openvino_genai

from .peer_protocol import Answered, Asked, CannotRun, Setup

_DRAFT, _MATCH = 5, 3
"""Tokens that its prompt lookup drafts, and the longest match that it looks for: its samples' values."""
_SHORT: Final = ("float16", "bfloat16")


def start(setup: Setup) -> OpenVino:
    return OpenVino(setup)


class OpenVino:
    version: str
    setting: str
    pid: int

    def __init__(self, setup: Setup) -> None:
        hints: dict[str, Any] = {"INFERENCE_NUM_THREADS": setup.threads, "PERFORMANCE_HINT": "LATENCY"}
        if setup.dtype not in _SHORT:
            hints["INFERENCE_PRECISION_HINT"] = "f32"
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False  # every measured call reads its prompt
        more: dict[str, Any] = {"scheduler_config": scheduler, **({"prompt_lookup": True} if setup.drafts else {})}
        self.pipeline = openvino_genai.LLMPipeline(setup.gguf, "CPU", **hints, **more)
        self.setup = setup
        self.version = f"openvino-genai {openvino_genai.__version__}"
        precision = hints.get("INFERENCE_PRECISION_HINT", "its own precision")
        drafts = f"prompt lookup, draft {_DRAFT}, match up to {_MATCH}" if setup.drafts else "no drafts"
        self.setting, self.pid = f"{precision}, {drafts}", os.getpid()

    def run(self, asked: Asked) -> Answered:
        ids = np.array([asked.prompt], np.int64)
        begin = time.perf_counter()
        try:
            found = self.pipeline.generate(
                openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids))),
                self._config(asked),
            )
        except RuntimeError as error:
            raise CannotRun(str(error).strip().splitlines()[-1][:200]) from None
        end = time.perf_counter()
        tokens = tuple(int(token) for token in found.tokens[0])
        reached = begin + found.perf_metrics.get_ttft().mean / 1000
        return Answered(
            ids=tokens,
            seconds=end - begin,
            prefill_seconds=reached - begin,
            decode_seconds=end - reached,
            decode_tokens=len(tokens) - 1,
        )

    def _config(self, asked: Asked) -> openvino_genai.GenerationConfig:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.do_sample = asked.max_tokens, False
        config.stop_token_ids = set(self.setup.ends)
        config.eos_token_id = self.setup.ends[0]
        if self.setup.drafts:
            config.num_assistant_tokens, config.max_ngram_size = _DRAFT, _MATCH
        if asked.schema is not None:
            config.structured_output_config = openvino_genai.StructuredOutputConfig(json_schema=asked.schema)
        return config
