"""What a call asks for: frozen values from the policy layer to the engine; `result.py` has what comes back.

Knows token ids, sampling and the options of modes. Does not know the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from .constraint import Constraint, Thinking
from .errors import RequestError
from .option_checks import check, is_number
from .options import ArOptions, InfillOptions, Options, SectionOptions, SingleOptions, first_of
from .result import Section


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
