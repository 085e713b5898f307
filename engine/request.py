"""What a call asks for: frozen values from the policy layer to the engine; `result.py` has what comes back.

Knows token ids and modes. Does not know the model. Each mode has its own options class, so that an impossible
combination cannot be expressed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal, Protocol, get_args

from .constraint import Constraint, Thinking
from .errors import RequestError
from .option_checks import check, check_block_length, check_one_of, check_threshold, is_number
from .result import Mode, Round, Section

Selection = Literal["vendor", "text_first"]
"""How a diffusion block selects slots if none reaches the threshold, and after a tentative end token.

vendor: the most confident slot, whatever its token, and slots after an end like all others, as in the weights' own
loop; text_first: the most confident slot without an end token, and no slot after a tentative end.
"""
SELECTIONS: Final[tuple[Selection, ...]] = get_args(Selection)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling settings; temperature 0 is greedy.

    The token at position p depends on (seed, p) and the logits, in every mode. Filters act after the schema mask and
    the temperature, in the order top_k, top_p; 0 and 1.0 switch them off. `logit_bias`: pairs of a token id and what is
    added to its logit, before all of these; -100 bans the token wherever another one may come.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        # Below 1e-20 logits / temperature overflows fp32, and the argmax of infinities could be a refused token.
        fits = is_number(self.temperature, int | float) and (self.temperature == 0 or 1e-20 <= self.temperature < 100)
        check(fits, "temperature", self.temperature, "0 (greedy) or a number from 1e-20 to below 100")
        check(is_number(self.top_k) and self.top_k >= 0, "top_k", self.top_k, "a whole number from 0 (off) up")
        fits = is_number(self.top_p, int | float) and 0 < self.top_p <= 1
        check(fits, "top_p", self.top_p, "a number above 0, at most 1.0 (off)")
        check(is_number(self.seed) and 0 <= self.seed < 2**64, "seed", self.seed, "a whole number from 0 to 2**64 - 1")
        _check_bias(self.logit_bias)


BIASES: Final = 1024
"""Maximum number of tokens that a call may bias, because each of its rows adds all of them."""


def _check_bias(given: tuple[tuple[int, float], ...]) -> None:
    check(len(given) <= BIASES, "logit_bias", f"{len(given)} tokens", f"at most {BIASES} of them")
    for token, bias in given:
        check(is_number(token) and token >= 0, "logit_bias", token, "token ids, whole numbers from 0")
        fits = is_number(bias, int | float) and -100 <= bias <= 100
        check(fits, f"logit_bias[{token}]", bias, "a number from -100 (never, where another token may come) to 100")
    check(len({token for token, _ in given}) == len(given), "logit_bias", given, "each token id once")


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
        if self.block_length is not None:
            check_block_length(self.block_length)
        check_threshold(self.threshold)
        check_one_of(SELECTIONS, "selection", self.selection)


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
        fits = is_number(self.block_length) and self.block_length >= 1
        check(fits, "block_length", self.block_length, "a whole number from 1")
        check_threshold(self.threshold)
        check_one_of(SELECTIONS, "selection", self.selection)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSpecOptions:
    """A draft of `block_length` - 1 tokens in one pass, verified in the next."""

    mode: ClassVar[Mode] = "linear_spec"
    block_length: int = 32

    def __post_init__(self) -> None:
        check_block_length(self.block_length)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuadraticSpecOptions:
    """A draft of `block_length` - 1 tokens, verified in the pass that drafts what may follow.

    `rows`: acceptance points that a pass prepares for (None: each); after any other point one pass has no draft.
    """

    mode: ClassVar[Mode] = "quadratic_spec"
    block_length: int = 16
    rows: int | None = None

    def __post_init__(self) -> None:
        check_block_length(self.block_length)
        fits = self.rows is None or (is_number(self.rows) and self.rows >= 1)
        check(fits, "rows", self.rows, "None (all) or a whole number from 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupSpecOptions:
    """Drafts of at most `block_length` - 1 tokens, copied from known text, which ride in the passes of `ar`.

    `min_match`: how many of the last tokens have to be found there, at least.
    """

    mode: ClassVar[Mode] = "lookup_spec"
    block_length: int = 16
    min_match: int = 1

    def __post_init__(self) -> None:
        check_block_length(self.block_length)
        fits = is_number(self.min_match) and 1 <= self.min_match <= 16
        check(fits, "min_match", self.min_match, "a whole number from 1 to 16")


@dataclass(frozen=True, slots=True, kw_only=True)
class InfillOptions:
    """Block diffusion between the prompt and the `suffix`, in one block; a pass fills as in `DiffusionOptions`.

    There is no `selection`: the number of tokens is chosen first, and none of them may be an end token.
    """

    mode: ClassVar[Mode] = "diffusion"
    suffix: tuple[int, ...]
    threshold: float = 0.9

    def __post_init__(self) -> None:
        check_threshold(self.threshold)


ExactOptions = ArOptions | LinearSpecOptions | QuadraticSpecOptions | LookupSpecOptions
SingleOptions = ExactOptions | DiffusionOptions | AlignedOptions
"""Options of one mode from the begin of an output, or of a section of it, to the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """Another exact mode takes over; `reason` is a sentence for people."""

    options: ExactOptions
    reason: str

    def __post_init__(self) -> None:
        check(bool(self.reason), "reason", self.reason, "some words")


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


ModeOptions = SingleOptions | AdaptiveOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionStart:
    """The mode that takes over where a section begins, and why, as a sentence for people."""

    options: SingleOptions
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionOptions:
    """Options by section of the output: of its kind, or of its number where that has some of its own (a replay).

    `first`: kind of section 0. `reasons`: why each kind is decoded so, as a sentence for people. `stops`: kinds that
    stop strings may end.
    """

    first: str
    kinds: Mapping[str, ModeOptions]
    reasons: Mapping[str, str]
    numbers: Mapping[int, ModeOptions] = field(default_factory=dict)
    stops: frozenset[str] = frozenset()

    @property
    def mode(self) -> Mode:
        return self.of(Section(0, self.first)).mode

    def start(self, section: Section) -> SectionStart:
        """Returns the mode that takes over where `section` begins."""
        return SectionStart(options=first_of(self.of(section)), reason=f"{section.kind}: {self.reasons[section.kind]}")

    def of(self, section: Section) -> ModeOptions:
        """Returns the options of a section. Raises RequestError for a kind without any."""
        found = self.numbers.get(section.number) or self.kinds.get(section.kind)
        if found is None:
            known = ", ".join(self.kinds)
            raise RequestError(f"no options for a section of kind {section.kind!r}; given for: {known}")
        return found


Options = SingleOptions | InfillOptions | AdaptiveOptions | SectionOptions


def first_of(options: ModeOptions) -> SingleOptions:
    """Returns the options that decoding begins with."""
    return options.first if isinstance(options, AdaptiveOptions) else options


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRequest:
    """One decoding job in token ids. `max_tokens` counts every output token, thinking and the end token included.

    `constraint` applies to what follows the thinking, if there is any. `max_passes` (prefill included) and
    `max_seconds` (from admission) end an unconstrained output between two passes; a constrained output is never cut
    there. `cache_scope`: only prefixes that requests of the same scope have stored are reused. `lookup`: runs of token
    ids, the oldest first, from which `lookup_spec` may copy drafts, as from the prompt and the output; they change no
    token, and other modes do not read them.
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
    cache_scope: str | None = None
    lookup: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        check(is_number(self.max_tokens) and self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        check(len(self.prompt) >= 1, "prompt", self.prompt, "at least one token")
        check(all(isinstance(stop, str) and stop for stop in self.stop), "stop", self.stop, "non-empty strings")
        check(self.max_passes is None or self.max_passes >= 1, "max_passes", self.max_passes, "at least 1")
        check(self.max_seconds is None or self.max_seconds > 0, "max_seconds", self.max_seconds, "above 0")
        budget = None if self.thinking is None else self.thinking.budget
        fits = budget is None or (is_number(budget) and 0 <= budget < self.max_tokens)
        check(fits, "max_thinking_tokens", budget, f"a whole number from 0 to below max_tokens={self.max_tokens}")
        if isinstance(self.options, InfillOptions) and (self.constraint or self.thinking or self.stop):
            raise RequestError("infill takes no schema, thinking budget or stop strings")

    @property
    def first_options(self) -> SingleOptions | InfillOptions:
        """Options of the mode that begins."""
        options = self.options
        if isinstance(options, SectionOptions):
            options = options.of(Section(0, options.first))
        return options if isinstance(options, InfillOptions) else first_of(options)

    @property
    def output_positions(self) -> int:
        """Positions used after the prompt."""
        return self.max_tokens + (len(self.options.suffix) if isinstance(self.options, InfillOptions) else 0)

    @property
    def cached_positions(self) -> int:
        """Tokens after the prompt whose keys and values are cached."""
        return self.max_tokens
