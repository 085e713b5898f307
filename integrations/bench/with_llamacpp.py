"""llama.cpp as a peer, by the wheel `xllamacpp`: its server in this process. Knows xllamacpp."""

from __future__ import annotations

import os
from importlib.metadata import version
from urllib.parse import urlsplit

import xllamacpp

from .llama_completion import Match, completed, fastest, setting_of, vectors_of
from .peer_protocol import Answered, Asked, Setup


def start(setup: Setup) -> LlamaCpp:
    """The faster of the settings, where there are several."""
    return fastest(setup, LlamaCpp)


class LlamaCpp:
    """One server; `match`: of its n-gram drafts, None for none."""

    version: str
    setting: str
    pid: int

    def __init__(self, setup: Setup, match: Match | None) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = setup.gguf
        params.n_ctx, params.n_parallel, params.verbosity = setup.context, 1, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = setup.threads
        if match is not None:
            params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
            params.speculative.ngram_simple.size_n, params.speculative.ngram_simple.size_m = match
        self.server = xllamacpp.Server(params)
        self.place = urlsplit(self.server.listening_address).netloc
        # A wheel may know less than the processor.
        self.version = f"xllamacpp {version('xllamacpp')} ({vectors_of(str(xllamacpp.get_system_info()))})"
        self.setting, self.pid = setting_of(match), os.getpid()

    def run(self, asked: Asked) -> Answered:
        return completed(self.place, asked)

    def close(self) -> None:
        """Leaves the server idle: it ends with the process."""
