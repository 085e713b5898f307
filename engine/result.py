"""The result of a request: the output, round by round, with its counts.

Knows token ids, modes and counts. Does not know requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

Mode = Literal["ar", "diffusion", "linear_spec", "quadratic_spec", "lookup_spec"]
FinishReason = Literal["stop", "length"]
EXACT: frozenset[Mode] = frozenset[Mode]({"ar", "linear_spec", "quadratic_spec", "lookup_spec"})
"""Modes that return the same tokens for the same request."""

Reason = Literal["", "schema", "budget", "target", "low_confidence", "stop"]


class Section(NamedTuple):
    """A part of an output that is decoded in a mode of its own: its place among the parts, from 0, and its kind."""

    number: int
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A drafted token that did not become output, and why.

    target: verification chose another token there or before; schema: the grammar refused it; budget: no completion
    would have fit after it; stop: the output had ended. `instead`: the probability of the token that took its place,
    None if none did or the mode does not report it.
    """

    token: int
    reason: Reason
    instead: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One pass (ar, lookup_spec), draft-and-verify cycle (linear_spec), block or writing of finished ones (diffusion).

    `choice`, which no caller asks for as a mode, is a chosen answer. A round without tokens is a block that was
    abandoned because a limit of passes or seconds ended the output.

    `origins` has one provenance code per token: a accepted draft, c the verifier's own choice, f forced by the grammar,
    r repaired (the best allowed token where a draft broke the grammar), b forced by the budget (no completion would
    have fit after the choice). `fills`: slots filled by each denoise pass; infill's first pass, which measures lengths,
    fills 0. `switch`: why this round's mode took over from the previous one; empty without a switch. `options`: the new
    mode's options by name, None without a switch. `section`: the part of the output that the tokens belong to, None
    where the whole output is decoded in one mode.
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
    section: Section | None = None

    @property
    def accepted(self) -> int:
        return self.origins.count("a")

    @property
    def unforced_tokens(self) -> int:
        """Number of tokens for which grammar and budget left a choice."""
        return len(self.origins) - self.origins.count("f") - self.origins.count("b")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRun:
    """The decoding passes that one call made in one mode, without prefill; in sections of one kind, if there are any.

    `rows`: the call's own rows, summed over passes; `pass_rows` and `pass_calls`: rows and calls of whole passes, with
    those of other calls. `seconds`: time from pass to pass, including host work and waiting for other calls.
    """

    mode: Mode
    passes: int
    rows: int
    pass_rows: int
    pass_calls: int
    seconds: float
    section: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts of one call. `forward_passes` excludes prefill, and so does `query_tokens`, the rows of those passes.

    `corrected` includes `repaired`, and `forced` includes tokens forced by the budget; `kernels`: the implementation.
    `mode_runs`: decoding passes by mode, and who shared them; `stretches` is its name of earlier releases.
    `graph_passes`: of all passes, prefill included, those over static buffers, as a captured graph if the device has
    graphs.
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
    def stretches(self) -> tuple[ModeRun, ...]:
        """`mode_runs`, by its name of earlier releases."""
        return self.mode_runs

    @property
    def prefilled_tokens(self) -> int:
        """Prompt tokens that were computed, not found in the prefix cache."""
        return self.prompt_tokens - self.cached_tokens

    @property
    def rejected(self) -> int:
        return self.drafted - self.accepted

    @property
    def tokens_per_forward(self) -> float | None:
        """output_tokens / forward_passes; None if the prefill pass alone made the output."""
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
        """Whether the text had to end before the model would have ended it, because of the budget."""
        return any("b" in round_.origins for round_ in self.rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult:
    """`logprobs`: for each candidate the log-probability, in nats, that `ar` at temperature 1 writes it and ends."""

    logprobs: tuple[float, ...]
    stats: Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """`logprobs`: for each given token its log-probability, in nats, after all before it, at temperature 1 over the
    vocabulary without banned ids (a banned id has -inf). `top`: the likeliest tokens at its place as pairs of id and
    log-probability, the likeliest first and the lower id first on a tie.
    """

    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]
    stats: Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionScores:
    """`logprobs`: for each question one log-probability per candidate, in nats: that the model, at temperature 1,
    goes on with this candidate; and then ends, for questions of which one candidate begins another.
    """

    logprobs: tuple[tuple[float, ...], ...]
    stats: Stats
