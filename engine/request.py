"""What a call asks for: frozen values from the policy layer to the engine; `result.py` has what comes back.

Knows token ids and modes. Does not know the model. Each mode has its own options class, so that an impossible
combination cannot be expressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, Protocol, get_args

from .constraint import Constraint, Thinking
from .errors import RequestError
from .result import Mode, Round

Selection = Literal["vendor", "text_first"]
"""How a diffusion block selects slots if none reaches the threshold, and after a tentative end token.

vendor: the most confident slot, whatever its token, and slots after an end like all others, as in the weights' own
loop; text_first: the most confident slot without an end token, and no slot after a tentative end.
"""
SELECTIONS: Final[tuple[Selection, ...]] = get_args(Selection)


def _check(ok: bool, name: str, given: object, allowed: str) -> None:
    if not ok:
        raise RequestError(f"{name}={given!r}: expected {allowed}")


def _number(given: object, kind: Any = int) -> bool:
    return isinstance(given, kind) and not isinstance(given, bool)  # true and false are no numbers


def _check_block_length(given: int | None) -> None:
    fits = given is None or (_number(given) and 2 <= given <= 256)
    _check(fits, "block_length", given, "a whole number from 2 to 256")


def _check_threshold(given: float) -> None:
    _check(_number(given, int | float) and 0 < given <= 1, "threshold", given, "a number above 0, at most 1")


def _check_selection(given: str | None) -> None:
    _check(given is None or given in SELECTIONS, "selection", given, " or ".join(map(repr, SELECTIONS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling settings; temperature 0 is greedy.

    The token at position p depends on (seed, p) and the logits, in every mode. Filters act after the schema mask and
    the temperature, in the order top_k, top_p; 0 and 1.0 switch them off.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        # Below 1e-20 logits / temperature overflows fp32, and the argmax of infinities could be a refused token.
        fits = _number(self.temperature, int | float) and (self.temperature == 0 or 1e-20 <= self.temperature < 100)
        _check(fits, "temperature", self.temperature, "0 (greedy) or a number from 1e-20 to below 100")
        _check(_number(self.top_k) and self.top_k >= 0, "top_k", self.top_k, "a whole number from 0 (off) up")
        fits = _number(self.top_p, int | float) and 0 < self.top_p <= 1
        _check(fits, "top_p", self.top_p, "a number above 0, at most 1.0 (off)")
        _check(_number(self.seed) and 0 <= self.seed < 2**64, "seed", self.seed, "a whole number from 0 to 2**64 - 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArOptions:
    """One token per pass."""

    mode: ClassVar[Mode] = "ar"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionOptions:
    """Blocks of `block_length` tokens; a pass fills the best slot and every slot whose confidence reaches `threshold`.

    A `block_length` of None: 32, or the length that the weights were trained for, if they take no other. A `selection`
    of None: that of config.json, else "vendor". The engine sets both.
    """

    mode: ClassVar[Mode] = "diffusion"
    block_length: int | None = None
    threshold: float = 0.9
    selection: Selection | None = None

    def __post_init__(self) -> None:
        _check_block_length(self.block_length)
        _check_threshold(self.threshold)
        _check_selection(self.selection)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedOptions:
    """`DiffusionOptions` for weights with blocks counted from position 0; the engine derives them from the weights.

    `block_length`: the weights' own; at 1 the attention is causal.
    """

    mode: ClassVar[Mode] = "diffusion"
    block_length: int
    threshold: float = 0.9
    selection: Selection | None = None

    def __post_init__(self) -> None:
        fits = _number(self.block_length) and self.block_length >= 1
        _check(fits, "block_length", self.block_length, "a whole number from 1")
        _check_threshold(self.threshold)
        _check_selection(self.selection)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSpecOptions:
    """A draft of `block_length` - 1 tokens in one pass, verified in the next.

    `exact_first`: the drafting pass itself decides the token before the draft, as `ar` does, so that two passes commit
    two tokens at least. Where they are None the engine sets them: `exact_first` as the weights draft better,
    `block_length` to 32 or the weights' longest.
    """

    mode: ClassVar[Mode] = "linear_spec"
    block_length: int | None = None
    exact_first: bool | None = None

    def __post_init__(self) -> None:
        _check_block_length(self.block_length)
        _check(isinstance(self.exact_first, bool | None), "exact_first", self.exact_first, "true, false or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuadraticSpecOptions:
    """A draft of `block_length` - 1 tokens, verified in the pass that drafts what may follow.

    `rows`: acceptance points that a pass prepares for (None: each); after any other point one pass has no draft. A
    `block_length` of None: 16, or the weights' longest; the engine sets it.
    """

    mode: ClassVar[Mode] = "quadratic_spec"
    block_length: int | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        _check_block_length(self.block_length)
        fits = self.rows is None or (_number(self.rows) and self.rows >= 1)
        _check(fits, "rows", self.rows, "None (all) or a whole number from 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class InfillOptions:
    """Block diffusion between the prompt and the `suffix`, in one block; a pass fills as in `DiffusionOptions`.

    There is no `selection`: the number of tokens is chosen first, and none of them may be an end token.
    """

    mode: ClassVar[Mode] = "diffusion"
    suffix: tuple[int, ...]
    threshold: float = 0.9

    def __post_init__(self) -> None:
        _check_threshold(self.threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceOptions:
    """Whole answers, in token ids, scored in parallel; the likeliest one is the output."""

    mode: ClassVar[Literal["choice"]] = "choice"
    candidates: tuple[tuple[int, ...], ...]


ExactOptions = ArOptions | LinearSpecOptions | QuadraticSpecOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """Another exact mode takes over; `reason` is a sentence for people."""

    options: ExactOptions
    reason: str

    def __post_init__(self) -> None:
        _check(bool(self.reason), "reason", self.reason, "some words")


class Controller(Protocol):
    """Decides at the end of each round whether another exact mode takes over; it cannot change a token.

    One controller may serve many calls: of a call it knows all `rounds` so far and the current `options`.
    """

    def __call__(self, rounds: Sequence[Round], options: ExactOptions) -> Switch | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveOptions:
    """Exact modes that may switch in mid-call, because they agree on every token; `first` begins."""

    first: ExactOptions
    controller: Controller

    @property
    def mode(self) -> Mode:
        return self.first.mode


Options = ExactOptions | DiffusionOptions | AlignedOptions | InfillOptions | AdaptiveOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRequest:
    """One decoding job in token ids. `max_tokens` counts every output token, thinking and the end token included.

    `constraint` applies to what follows the thinking, if there is any. `max_passes` (prefill included) and
    `max_seconds` (from admission) end an unconstrained output between two passes; a constrained output is never cut
    there.
    """

    prompt: tuple[int, ...]
    options: Options = field(default_factory=ArOptions)
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    thinking: Thinking | None = None
    max_passes: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        _check(_number(self.max_tokens) and self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _check(len(self.prompt) >= 1, "prompt", self.prompt, "at least one token")
        _check(all(isinstance(stop, str) and stop for stop in self.stop), "stop", self.stop, "non-empty strings")
        _check(self.max_passes is None or self.max_passes >= 1, "max_passes", self.max_passes, "at least 1")
        _check(self.max_seconds is None or self.max_seconds > 0, "max_seconds", self.max_seconds, "above 0")
        budget = None if self.thinking is None else self.thinking.budget
        fits = budget is None or (_number(budget) and 0 <= budget < self.max_tokens)
        _check(fits, "max_thinking_tokens", budget, f"a whole number from 0 to below max_tokens={self.max_tokens}")
        if isinstance(self.options, InfillOptions) and (self.constraint or self.thinking or self.stop):
            raise RequestError("infill takes no schema, thinking budget or stop strings")

    @property
    def first_options(self) -> Options:
        """Options of the mode that begins."""
        return self.options.first if isinstance(self.options, AdaptiveOptions) else self.options

    @property
    def output_positions(self) -> int:
        """Positions used after the prompt."""
        return self.max_tokens + (len(self.options.suffix) if isinstance(self.options, InfillOptions) else 0)

    @property
    def cached_positions(self) -> int:
        """Tokens after the prompt whose keys and values are cached."""
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
    def options(self) -> ChoiceOptions:
        return ChoiceOptions(candidates=self.candidates)

    @property
    def first_options(self) -> ChoiceOptions:
        return self.options

    @property
    def stop(self) -> tuple[str, ...]:
        return ()

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest candidate, with its end token."""
        return self.output_positions + 1

    @property
    def output_positions(self) -> int:
        """Positions used after the prompt."""
        return max(map(len, self.candidates))

    @property
    def cached_positions(self) -> int:
        """Tokens after the prompt whose keys and values are cached."""
        return 0
