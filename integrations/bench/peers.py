"""The peers of `trimode bench`: other engines on the same weights and steps, each as it runs best.

Knows names, which files a peer reads and which of its systems there are: without drafts and with n-gram drafts, without
a schema and with one. Does not know how a peer decodes. A peer that cannot run is listed with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import torch

from trimode.engine.errors import RequestError
from trimode.engine.models.export import export
from trimode.policy.calls import Engine
from trimode.policy.schema import Schema

from .peer_process import PeerProcess
from .peer_protocol import Answered, Asked, CannotRun, Setup
from .systems import Question, Reading, SystemUnderTest

HUGGING_FACE: Final = ("hf", "hf-lookup")
OTHERS: Final = ("llamacpp", "llamacpp-native", "openvino", "ort")
"""Peers in processes of their own."""
PEERS: Final = (*HUGGING_FACE, *OTHERS)


def known_peers(names: str) -> tuple[str, ...]:
    """Parses `hf,llamacpp` as names, each once; an empty text means none. Raises RequestError for unknown ones."""
    found = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in found:
        if name not in PEERS:
            raise RequestError(f"--peers: unknown peer {name!r}; known: {', '.join(PEERS)}")
    return found


class Running(Protocol):
    """A started peer."""

    @property
    def version(self) -> str: ...

    @property
    def setting(self) -> str: ...

    def run(self, asked: Asked) -> Answered: ...

    def close(self) -> int | None: ...


@dataclass(frozen=True)
class Weights:
    """The weights of `engine` as files that peers read, written to `folder` when they are first asked for."""

    engine: Engine
    folder: Path

    @property
    def gguf(self) -> Path:
        """The checkpoint's own GGUF file, or one of the directory in its own type."""
        source, path = self.engine.checkpoint, self.folder / "model.gguf"
        if source.is_gguf:
            return source.directory
        if not path.exists():
            export(source.directory, path, "gguf")
        return path

    @property
    def directory(self) -> Path:
        """What transformers and its kin read. Whole weights, whatever a GGUF file stores."""
        source, path = self.engine.checkpoint, self.folder / "model"
        if not path.exists():
            masks = self.engine.tokens.model.config.family.masks
            if not source.is_gguf and not masks:
                return source.directory
            export(source.directory, path, "transformers" if source.is_gguf else "ministral3")
        return path


@dataclass
class Peers:
    """Systems of all peers that run, why others do not, and what is known of each."""

    systems: list[SystemUnderTest] = field(default_factory=list[SystemUnderTest])
    not_run: dict[str, str] = field(default_factory=dict[str, str])
    about: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    cache: str | None = None
    """The cache kind with which Hugging Face is faster."""
    running: dict[str, Running] = field(default_factory=dict[str, Running])

    def close(self) -> None:
        """Ends all processes, and notes the memory that each had."""
        for name, one in self.running.items():
            self.about[name]["resident_bytes"] = one.close()
        self.running.clear()


def start(names: Sequence[str], weights: Weights, max_tokens: int, probe: Question) -> Peers:
    """Starts the peers `names`. `probe`: a question on which settings of a peer are compared."""
    found = Peers()
    if given := [name for name in names if name in HUGGING_FACE]:
        _add_hugging_face(found, given, weights, max_tokens, probe)
    for name in names:
        if name in OTHERS:
            for drafts in (False, True):
                _add(found, f"{name}-lookup" if drafts else name, _setup(name, weights, max_tokens, probe, drafts))
    return found


def _add_hugging_face(found: Peers, names: Sequence[str], weights: Weights, max_tokens: int, probe: Question) -> None:
    from .hugging_face import HuggingFace

    peer = HuggingFace(weights.directory, weights.engine.tokens.dtype, max_tokens, probe)
    found.systems += [peer.system(name) for name in names]
    found.not_run |= {f"{name}+schema": "transformers has no JSON schemas of its own" for name in names}
    found.cache = peer.cache


def _setup(name: str, weights: Weights, max_tokens: int, probe: Question, drafts: bool) -> Setup:
    engine = weights.engine
    return Setup(
        peer=name,
        gguf=str(weights.gguf) if name != "ort" else "",
        directory=str(weights.directory) if name == "ort" else "",
        drafts=drafts,
        dtype=str(engine.tokens.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        context=min(engine.context, 4096),
        ends=engine.tokens.model.config.eos_token_ids,
        probe=probe.prompt,
        max_tokens=max_tokens,
        folder=str(weights.folder),
    )


def _add(found: Peers, name: str, setup: Setup) -> None:
    try:
        running = PeerProcess(setup)
    except CannotRun as error:
        found.not_run |= {name: str(error), f"{name}+schema": str(error)}
        return
    add_running(found, name, running, setup.max_tokens)


def add_running(found: Peers, name: str, running: Running, max_tokens: int) -> None:
    """Adds the systems of a started peer: without a schema and with one."""
    found.running[name] = running
    found.about[name] = {"version": running.version, "setting": running.setting}
    found.systems += [
        SystemUnderTest(name, "peer", lambda question: _run(running, question, max_tokens, None)),
        SystemUnderTest(
            f"{name}+schema", "peer-schema", lambda question: _run(running, question, max_tokens, _json(question))
        ),
    ]


def _json(question: Question) -> str:
    """The schema of a question as JSON. Raises CannotRun for texts that are none."""
    if not isinstance(question.schema, Schema):
        raise CannotRun("the step's text is held by no JSON Schema")
    return question.schema.text


def _run(running: Running, question: Question, max_tokens: int, schema: str | None) -> Reading:
    answer = running.run(Asked(prompt=question.prompt, max_tokens=max_tokens, schema=schema))
    return Reading(
        ids=answer.ids,
        seconds=answer.seconds,
        prefill_seconds=answer.prefill_seconds,
        decode_seconds=answer.decode_seconds,
        decode_tokens=answer.decode_tokens,
        passes=answer.passes,
    )
