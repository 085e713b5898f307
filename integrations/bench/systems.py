"""What `trimode bench` measures: one question, the reading of one call, and our own systems under test.

Knows the token engine. A call is measured from prompt ids to output ids, for us and for peers: templates, text and
spans are not included. Does not know other engines (`peers`) or how readings are counted (`rows`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from trimode.engine.errors import TrimodeError
from trimode.engine.request import DecodeRequest
from trimode.engine.token_engine import TokenEngine
from trimode.policy.calls import Engine
from trimode.policy.schema import Target
from trimode.policy.selection import Settings, known_mode, options_of, sampling_of, variant

Group = Literal["peer", "peer-schema", "free", "schema"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One step to decode: its kind, its prompt in token ids, and the schema that constrains systems of group
    `schema`."""

    source: str
    kind: str
    prompt: tuple[int, ...]
    schema: Target | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One measured call. `seconds`: of the whole call; `decode_*`: what follows the prefill pass, without its tokens.

    `passes`: forward passes after prefill; None where a peer does not say.
    """

    ids: tuple[int, ...]
    seconds: float
    prefill_seconds: float
    decode_seconds: float
    decode_tokens: int
    passes: int | None


@dataclass(frozen=True, slots=True)
class SystemUnderTest:
    """A system under test. Groups: peer, another engine; free, a mode of ours without schema, as peers run; peer-schema
    and schema, the same under the step's schema. `run` raises CannotRun where it cannot take a question."""

    name: str
    group: Group
    run: Callable[[Question], Reading]

    def takes(self, question: Question) -> bool:
        return not self.constrained or question.schema is not None

    @property
    def constrained(self) -> bool:
        return self.group in ("schema", "peer-schema")


def ours(engine: Engine, name: str, settings: Settings, group: Group) -> SystemUnderTest:
    """Returns a mode of ours (`name` as `selection.variant` reads it) on a cold `engine`; in group `schema`, under the
    question's schema."""
    chosen = variant(name, "--modes").over(settings)
    options = options_of(known_mode(chosen.mode or "", "--modes"), chosen)
    sampling, max_tokens = sampling_of(settings), settings.max_tokens or 0

    def run(question: Question) -> Reading:
        begin = time.perf_counter()
        schema = question.schema if group == "schema" else None
        result = engine.tokens.decode(
            DecodeRequest(
                prompt=question.prompt,
                options=options,
                sampling=sampling,
                max_tokens=max_tokens,
                constraint=None if schema is None else engine.grammars.matcher(schema),
            )
        )
        seconds, stats, first = time.perf_counter() - begin, result.stats, result.rounds[0]
        if stats.cached_tokens:
            raise TrimodeError(f"bench: a measured call took {stats.cached_tokens} prompt tokens from an earlier one")
        return Reading(
            ids=result.token_ids,
            seconds=seconds,
            prefill_seconds=stats.prefill_seconds,
            decode_seconds=stats.seconds - stats.prefill_seconds,
            decode_tokens=stats.output_tokens - (0 if first.forward_passes else len(first.tokens)),
            passes=stats.forward_passes,
        )

    return SystemUnderTest(name if group == "free" else f"{name}+schema", group, run)


def cold(engine: Engine) -> Engine:
    """Returns an engine with the same weights and grammars and no prefix cache, so that every measured call prefills
    its prompt and none compiles a grammar that `engine` has."""
    model, tokenizer = engine.tokens.model, engine.tokenizer
    tokens = TokenEngine(model, tokenizer.decode, tokenizer.vocab_size, keep_prefixes=False)
    found = Engine(tokens, tokenizer, engine.checkpoint)
    found.grammars = engine.grammars
    return found
