"""Training samples: rendered episodes cut into windows of fixed length, with a flag for the model's own tokens.

Knows the data pack and its sources. A window is the episode's header (context and tools) and a run of its later
messages, so that tools are in sight wherever the window starts. Short episodes are packed several to a window.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trimode.engine.models.tokenizer import Tokenizer
from trimode.integrations.bench.episodes import Episode, read_episodes

from .tokenizer import SPECIAL

SOURCES = {"sgd": 0.45, "star": 0.2, "tm4": 0.1, "gsm8k": 0.13, "schemastore": 0.02, "tldr": 0.07, "peps_prose": 0.03}
"""Share of the windows drawn from each source."""

MAX_HEADER = 512
START = SPECIAL.index("<|im_start|>")


@dataclass(frozen=True, slots=True)
class Window:
    """ids [L] int16 and own [L] bool: own marks tokens that the model writes (content and its end marker)."""

    ids: npt.NDArray[np.int16]
    own: npt.NDArray[np.bool_]


Turn = tuple[list[int], list[bool]]
"""ids and own flags from one start marker up to the next."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One episode: the system turn with the tools (maybe empty), and the turns after it."""

    header: Turn
    turns: list[Turn]


def render(tokenizer: Tokenizer, episode: Episode) -> Rendered:
    """Turns of the episode; the end marker after an own message counts as own."""
    ids: list[int] = []
    own: list[bool] = []
    ends = False
    for piece in tokenizer.pieces(episode.messages, tools=list(episode.tools)):
        mine = piece.message is not None and "kind" in episode.messages[piece.message]
        ids += piece.ids
        own += [mine] * len(piece.ids) if not ends else [True] + [mine] * (len(piece.ids) - 1)
        ends = mine
    starts = [at for at, token in enumerate(ids) if token == START]
    turns = [(ids[a:b], own[a:b]) for a, b in pairwise([*starts, len(ids)])]
    has_header = bool(episode.tools) or episode.messages[0]["role"] == "system"
    return Rendered(turns[0], turns[1:]) if has_header else Rendered(([], []), turns)


def window(rendered: Rendered, length: int, rng: random.Random) -> Turn | None:
    """Header plus turns from a random start, at most `length` tokens; None where nothing of the model's is left."""
    header = rendered.header if len(rendered.header[0]) <= MAX_HEADER else ([], [])
    sizes = [len(ids) for ids, _ in rendered.turns]
    fits = len(header[0]) + sum(sizes) <= length
    start = 0 if fits else rng.randrange(max(1, len(sizes) - 6))
    ids, own = list(header[0]), list(header[1])
    for turn in rendered.turns[start:]:
        ids += turn[0]
        own += turn[1]
    return (ids[:length], own[:length]) if any(own[:length]) else None


class Source:
    """An endless, seeded stream of windows of one source."""

    def __init__(self, tokenizer: Tokenizer, path: Path, length: int, seed: int, limit: int) -> None:
        self.rng = random.Random(f"{seed}:{path.name}")
        episodes = list(read_episodes(path))
        self.rng.shuffle(episodes)
        self.rendered = [render(tokenizer, episode) for episode in episodes[:limit]]
        self.length = length

    def windows(self) -> Iterator[Window]:
        ids: list[int] = []
        own: list[bool] = []
        while True:
            self.rng.shuffle(self.rendered)
            for rendered in self.rendered:
                cut = window(rendered, self.length - len(ids), self.rng)
                if cut is not None:
                    ids += cut[0]
                    own += cut[1]
                if ids and (cut is None or len(ids) > self.length - 96):
                    yield _padded(ids, own, self.length)
                    ids, own = [], []


def _padded(ids: list[int], own: list[bool], length: int) -> Window:
    short = length - len(ids)
    return Window(np.asarray(ids + [0] * short, dtype=np.int16), np.asarray(own + [False] * short, dtype=np.bool_))


def mixture(tokenizer: Tokenizer, pack: Path, length: int, seed: int, limit: int) -> Iterator[Window]:
    """Windows of all sources in the shares of `SOURCES`, in an order set by `seed`."""
    streams = {name: Source(tokenizer, pack / f"{name}.jsonl.gz", length, seed, limit).windows() for name in SOURCES}
    rng = random.Random(seed)
    while True:
        name = rng.choices(list(SOURCES), weights=list(SOURCES.values()))[0]
        yield next(streams[name])
