"""What a call asks for and what comes back: frozen hand-offs between the policy layer and the engine.

Knows token ids, modes and counts. One options class a mode, so that an impossible combination cannot be written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from .constraint import Constraint, Thinking
from .errors import RequestError

Mode = Literal["ar", "diffusion", "linear_spec", "quadratic_spec"]
FinishReason = Literal["stop", "length"]
EXACT: frozenset[Mode] = frozenset[Mode]({"ar", "linear_spec", "quadratic_spec"})
"""Modes that return the same tokens for the same request."""


def _check(ok: bool, name: str, given: object, allowed: str) -> None:
    if not ok:
        raise RequestError(f"{name}={given!r}: expected {allowed}")


def _check_block_length(given: int) -> None:
    _check(isinstance(given, int) and 2 <= given <= 256, "block_length", given, "a whole number from 2 to 256")


def _check_threshold(given: float) -> None:
    _check(0 < given <= 1, "threshold", given, "a number above 0, at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """temperature 0 is greedy. The token at position p depends on (seed, p) and the logits alone, in every mode.

    Filters act after the schema mask and the temperature, in the order top_k, top_p; 0 and 1.0 switch them off.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        # Below 1e-20 logits / temperature overflows fp32, and the argmax of infinities could be a refused token.
        fits = self.temperature == 0 or 1e-20 <= self.temperature < 100
        _check(fits, "temperature", self.temperature, "0 (greedy) or a number from 1e-20 to below 100")
        _check(isinstance(self.top_k, int) and self.top_k >= 0, "top_k", self.top_k, "a whole number from 0 (off) up")
        _check(0 < self.top_p <= 1, "top_p", self.top_p, "a number above 0, at most 1.0 (off)")
        _check(
            isinstance(self.seed, int) and 0 <= self.seed < 2**64,
            "seed",
            self.seed,
            "a whole number from 0 to 2**64 - 1",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ArOptions:
    """One token a pass."""

    mode: ClassVar[Mode] = "ar"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionOptions:
    """Blocks of `block_length` tokens; a pass fills every slot whose confidence reaches `threshold`, and the best.

    None: 32, or what the weights were trained for where they take no other; the engine puts in the number.
    """

    mode: ClassVar[Mode] = "diffusion"
    block_length: int | None = None
    threshold: float = 0.9

    def __post_init__(self) -> None:
        if self.block_length is not None:
            _check_block_length(self.block_length)
        _check_threshold(self.threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedOptions:
    """`DiffusionOptions` for weights whose blocks are counted from position 0; the engine makes them, from the weights.

    `block_length`: the weights' own; at 1 the attention is causal.
    """

    mode: ClassVar[Mode] = "diffusion"
    block_length: int
    threshold: float = 0.9

    def __post_init__(self) -> None:
        fits = isinstance(self.block_length, int) and self.block_length >= 1
        _check(fits, "block_length", self.block_length, "a whole number from 1")
        _check_threshold(self.threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSpecOptions:
    """A draft of `block_length` - 1 tokens in one pass, verified in the next."""

    mode: ClassVar[Mode] = "linear_spec"
    block_length: int = 32

    def __post_init__(self) -> None:
        _check_block_length(self.block_length)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuadraticSpecOptions:
    """A draft of `block_length` - 1 tokens, verified in the pass that drafts what may follow.

    `rows`: acceptance points that a pass prepares for (None: each); where another comes, one pass goes without a draft.
    """

    mode: ClassVar[Mode] = "quadratic_spec"
    block_length: int = 16
    rows: int | None = None

    def __post_init__(self) -> None:
        _check_block_length(self.block_length)
        fits = self.rows is None or (isinstance(self.rows, int) and self.rows >= 1)
        _check(fits, "rows", self.rows, "None (all) or a whole number from 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class InfillOptions:
    """Block diffusion between the prompt and the `suffix`, in one block; a pass fills as in `DiffusionOptions`."""

    mode: ClassVar[Mode] = "diffusion"
    suffix: tuple[int, ...]
    threshold: float = 0.9

    def __post_init__(self) -> None:
        _check_threshold(self.threshold)


ExactOptions = ArOptions | LinearSpecOptions | QuadraticSpecOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """Another exact mode takes over, for a reason in words."""

    options: ExactOptions
    reason: str

    def __post_init__(self) -> None:
        _check(bool(self.reason), "reason", self.reason, "some words")


class Controller(Protocol):
    """Decides at the end of each round whether another exact mode goes on; it cannot change a token.

    One may serve many calls: what it knows of a call are the call's `rounds`, all of them, and the `options` that run.
    """

    def __call__(self, rounds: Sequence[Round], options: ExactOptions) -> Switch | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveOptions:
    """Exact modes that hand over to each other in mid-call, because they agree on every token: `first` begins."""

    first: ExactOptions
    controller: Controller

    @property
    def mode(self) -> Mode:
        return self.first.mode


Options = (
    ArOptions
    | DiffusionOptions
    | AlignedOptions
    | LinearSpecOptions
    | QuadraticSpecOptions
    | InfillOptions
    | AdaptiveOptions
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRequest:
    """One decoding job in token ids. `max_tokens` counts every output token, thinking and the end token included.

    `constraint` holds what follows the thinking, if there is any.
    """

    prompt: tuple[int, ...]
    options: Options = field(default_factory=ArOptions)
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    thinking: Thinking | None = None

    def __post_init__(self) -> None:
        _check(isinstance(self.max_tokens, int) and self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _check(len(self.prompt) >= 1, "prompt", self.prompt, "at least one token")
        _check(all(self.stop), "stop", self.stop, "non-empty strings")
        budget = None if self.thinking is None else self.thinking.budget
        fits = budget is None or (isinstance(budget, int) and 0 <= budget < self.max_tokens)
        _check(fits, "max_thinking_tokens", budget, f"a whole number from 0 to below max_tokens={self.max_tokens}")
        if isinstance(self.options, InfillOptions) and (self.constraint or self.thinking or self.stop):
            raise RequestError("infill takes no schema, thinking budget or stop strings")

    @property
    def begins(self) -> Options:
        """The options of the mode that begins."""
        return self.options.first if isinstance(self.options, AdaptiveOptions) else self.options

    @property
    def room(self) -> int:
        """Positions behind the prompt that are used."""
        return self.max_tokens + (len(self.options.suffix) if isinstance(self.options, InfillOptions) else 0)

    @property
    def kept(self) -> int:
        """Tokens behind the prompt whose keys and values are kept."""
        return self.max_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Candidates, in token ids, to be scored as the whole answer to `prompt`."""

    prompt: tuple[int, ...]
    candidates: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        _check(len(self.prompt) >= 1, "prompt", self.prompt, "at least one token")
        _check(len(self.candidates) >= 1 and all(self.candidates), "candidates", self.candidates, "non-empty strings")

    @property
    def sampling(self) -> Sampling:
        return Sampling()

    @property
    def room(self) -> int:
        """Positions behind the prompt that are used."""
        return max(map(len, self.candidates))

    @property
    def kept(self) -> int:
        """Tokens behind the prompt whose keys and values are kept."""
        return 0


Reason = Literal["", "schema", "budget", "target", "low_confidence", "stop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A drafted token that did not become output, and why.

    target: verification chose another token there or before; schema: the grammar refused it; budget: it would have left
    no room to end the text; stop: the output was over.
    """

    token: int
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One pass (ar), draft-and-verify cycle (linear_spec), block or the writing of finished blocks (diffusion).

    `origins` has a letter a token: a accepted draft, c the verifier's own choice, f forced by the grammar, r repaired
    (the best allowed token where a draft broke the grammar), b forced by the budget (the choice would have left no room
    to end the text). `fills`: slots filled by each denoise pass. `switch`: why this round's mode took over from the one
    before; empty where none did.
    """

    mode: Mode
    tokens: tuple[int, ...]
    origins: str
    drafted: int = 0
    rejected: tuple[Rejected, ...] = ()
    forward_passes: int = 0
    fills: tuple[int, ...] = ()
    switch: str = ""

    @property
    def accepted(self) -> int:
        return self.origins.count("a")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts of one call. `forward_passes` leaves prefill out, and so does `query_tokens`, the rows of those passes.

    `corrected` includes `repaired`, and `forced` what the budget forced; `kernels`: what ran.
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
