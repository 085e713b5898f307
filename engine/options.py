"""The options of each mode, and how several modes share one output.

Knows modes and ranges. Does not know requests or the model. Each mode has its own class, so that an impossible
combination cannot be expressed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal, Protocol, get_args

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
    """A draft of `block_length` - 1 tokens in one pass, verified in the next.

    `exact_first`: the drafting pass itself decides the token before the draft, as `ar` does, so that two passes commit
    two tokens at least. Where they are None the engine sets them: `exact_first` as the weights draft better,
    `block_length` to 32 or the weights' longest.
    """

    mode: ClassVar[Mode] = "linear_spec"
    block_length: int | None = None
    exact_first: bool | None = None

    def __post_init__(self) -> None:
        check_block_length(self.block_length)
        check(isinstance(self.exact_first, bool | None), "exact_first", self.exact_first, "true, false or None")


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
