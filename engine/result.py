"""What comes back of a request: the output, round by round, with its counts.

Knows token ids, modes and counts. Does not know requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Mode = Literal["ar", "diffusion", "linear_spec", "quadratic_spec"]
FinishReason = Literal["stop", "length"]
EXACT: frozenset[Mode] = frozenset[Mode]({"ar", "linear_spec", "quadratic_spec"})
"""Modes that return the same tokens for the same request."""

Reason = Literal["", "schema", "budget", "target", "low_confidence", "stop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A drafted token that did not become output, and why.

    target: verification chose another token there or before; schema: the grammar refused it; budget: it would have left
    no room to end the text; stop: the output was over.
    `instead`: the probability of the token that took its very place, None where none did or the mode does not say.
    """

    token: int
    reason: Reason
    instead: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One pass (ar), draft-and-verify cycle (linear_spec), block or the writing of finished blocks (diffusion).

    `choice`, which no caller asks for as a mode, is the answer that was chosen. A round without tokens is a block that
    was given up where a limit of passes or seconds ended the output.

    `origins` has a letter a token: a accepted draft, c the verifier's own choice, f forced by the grammar, r repaired
    (the best allowed token where a draft broke the grammar), b forced by the budget (the choice would have left no room
    to end the text). `fills`: slots filled by each denoise pass; infill's first pass, which measures lengths, fills 0.
    `switch`: why this round's mode took over from the one before; empty where none did. `options`: with what, by name,
    None where none did.
    """

    mode: Mode | Literal["choice"]
    tokens: tuple[int, ...]
    origins: str
    drafted: int = 0
    rejected: tuple[Rejected, ...] = ()
    forward_passes: int = 0
    fills: tuple[int, ...] = ()
    switch: str = ""
    options: Mapping[str, int | None] | None = None

    @property
    def accepted(self) -> int:
        return self.origins.count("a")

    @property
    def unforced_tokens(self) -> int:
        """Tokens about which grammar and budget left a choice."""
        return len(self.origins) - self.origins.count("f") - self.origins.count("b")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRun:
    """The decoding passes that one call made in one mode, prefill left out.

    `rows`: its own in them, summed over passes; `pass_rows` and `pass_calls`: those of whole passes, and the calls that
    shared them. `seconds`: what went by from pass to pass, host work and waiting for the others included.
    """

    mode: Mode
    passes: int
    rows: int
    pass_rows: int
    pass_calls: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts of one call. `forward_passes` leaves prefill out, and so does `query_tokens`, the rows of those passes.

    `corrected` includes `repaired`, and `forced` what the budget forced; `kernels`: what ran. `stretches`: its decoding
    passes by mode, and who shared them. `graph_passes`: of all passes, prefill included, those that ran over static
    buffers, as a captured graph where the device has graphs.
    """

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    prefill_passes: int
    forward_passes: int
    drafted: int
    accepted: int
    corrected: int
    forced: int
    repaired: int
    seconds: float
    prefill_seconds: float
    kernels: str = ""
    query_tokens: int = 0
    mode_runs: tuple[ModeRun, ...] = ()
    graph_passes: int = 0

    @property
    def prefilled_tokens(self) -> int:
        """Prompt tokens that were computed, not found in the prefix cache."""
        return self.prompt_tokens - self.cached_tokens

    @property
    def rejected(self) -> int:
        return self.drafted - self.accepted

    @property
    def tokens_per_forward(self) -> float | None:
        """output_tokens / forward_passes; None where the prefill pass alone made the output."""
        return self.output_tokens / self.forward_passes if self.forward_passes else None

    @property
    def tokens_per_second(self) -> float | None:
        """Decoding speed: output tokens over the time after prefill."""
        decode = self.seconds - self.prefill_seconds
        return self.output_tokens / decode if decode > 0 and self.forward_passes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeResult:
    """Output ids (an end token included), their text without it, and how they came about."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    rounds: tuple[Round, ...]
    stats: Stats

    @property
    def forced_close(self) -> bool:
        """Whether the text had to be ended before the model would have, for the budget's sake."""
        return any("b" in made.origins for made in self.rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult:
    """`logprobs`: for each candidate, in nats, that `ar` at temperature 1 writes it and ends there."""

    logprobs: tuple[float, ...]
    stats: Stats
