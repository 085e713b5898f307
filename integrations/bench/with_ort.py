"""onnxruntime-genai as a peer: its own builder makes a model of our weights, in fp32.

Knows onnxruntime_genai. Greedy. Its builder quantises anew to four bits, which would be other weights than ours, so
blocks run here as the fp32 numbers that they stand for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime_genai

from .peer_protocol import Answered, Asked, CannotRun, Setup

_MATCH, _DRAFT = 3, 8
"""Tokens that have to match for its n-gram drafts, and tokens that are drafted."""
_BUILD_SECONDS: Final = 300


def start(setup: Setup) -> Ort:
    built = Path(setup.folder) / "ort"
    if not (built / "genai_config.json").is_file():
        _build(Path(setup.directory), built, Path(setup.folder) / "ort-cache")
    return Ort(setup, built)


def _build(directory: Path, out: Path, cache: Path) -> None:
    words = ["-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
    places = ["-i", str(directory), "-o", str(out), "-c", str(cache)]
    done = subprocess.run(
        [sys.executable, *words, *places], capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "nothing printed"
        raise CannotRun(f"its builder fails: {last.replace(str(directory), directory.name)[:200]}")


class Ort:
    version: str
    setting: str
    pid: int

    def __init__(self, setup: Setup, built: Path) -> None:
        config = onnxruntime_genai.Config(str(built))
        options = {"session_options": {"intra_op_num_threads": setup.threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self.model = onnxruntime_genai.Model(config)
        self.setup = setup
        self.version, self.pid = f"onnxruntime-genai {version('onnxruntime-genai')}", os.getpid()
        self.setting = f"fp32, n-gram drafts, match {_MATCH}, draft {_DRAFT}" if setup.drafts else "fp32, no drafts"

    def run(self, asked: Asked) -> Answered:
        generator = onnxruntime_genai.Generator(self.model, self._params(asked))
        begin = time.perf_counter()
        generator.append_tokens(np.array([asked.prompt], np.int32))
        generator.generate_next_token()
        first, early = time.perf_counter(), generator.token_count()
        while not generator.is_done():
            generator.generate_next_token()
        end = time.perf_counter()
        ids = tuple(int(token) for token in generator.get_sequence(0)[len(asked.prompt) :])
        return Answered(
            ids=self._ended(ids, asked.max_tokens),
            seconds=end - begin,
            prefill_seconds=first - begin,
            decode_seconds=end - first,
            decode_tokens=len(asked.prompt) + len(ids) - early,
        )

    def _ended(self, ids: tuple[int, ...], most: int) -> tuple[int, ...]:
        """The ids with the end token, which it leaves out; which of several it was, it does not say."""
        return ids[:most] if len(ids) >= most or (ids and ids[-1] in self.setup.ends) else (*ids, self.setup.ends[0])

    def _params(self, asked: Asked) -> onnxruntime_genai.GeneratorParams:
        params = onnxruntime_genai.GeneratorParams(self.model)
        params.set_search_options(max_length=len(asked.prompt) + asked.max_tokens, do_sample=False)
        try:
            if self.setup.drafts:
                params.set_speculative_options(ngram_size=_MATCH, max_draft_tokens=_DRAFT)
            if asked.schema is not None:
                params.set_guidance("json_schema", asked.schema)
        except RuntimeError as error:
            raise CannotRun(str(error)[:200]) from None
        return params
