"""The settings of a call's decoding, and how several layers of them merge.

Knows the settings, their names and their ranges. Does not know engines, models, or the source of a setting beyond its
label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from operator import attrgetter
from typing import Any, Final, Literal, TypedDict, get_args

from trimode.engine.errors import RequestError
from trimode.engine.options import (
    SELECTIONS,
    ArOptions,
    DiffusionOptions,
    LinearSpecOptions,
    LookupSpecOptions,
    QuadraticSpecOptions,
    Selection,
    SingleOptions,
)
from trimode.engine.request import Sampling
from trimode.engine.result import Mode

from ..errors import PolicyError, shown

StepKind = Literal["plan", "tool_call", "json", "prose", "choice", "turn"]
STEP_KINDS: Final[tuple[StepKind, ...]] = get_args(StepKind)
PlannedKind = Literal[StepKind, "thinking"]
"""Kinds that a policy plans for: those of steps, and the thinking of a turn."""
PLANNED_KINDS: Final[tuple[PlannedKind, ...]] = get_args(PlannedKind)
Guarantee = Literal["grammar", "checked"]
"""Guarantees of a schema: "grammar" enforces it in full while decoding; "checked" enforces what the grammar can express
and validates the finished output."""
GUARANTEES: Final[tuple[Guarantee, ...]] = get_args(Guarantee)
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
OPTIONS: Final[dict[str, type[SingleOptions]]] = {
    options.mode: options
    for options in (ArOptions, DiffusionOptions, LinearSpecOptions, QuadraticSpecOptions, LookupSpecOptions)
}


class SettingArguments(TypedDict, total=False):
    """The settings as keyword arguments, for type checkers and editors; `Settings` says what each of them means."""

    mode: Mode | None
    block_length: int | None
    threshold: float | None
    selection: Selection | None
    rows: int | None
    min_match: int | None
    exact_first: bool | None
    exact: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None
    max_tokens: int | None
    max_thinking_tokens: int | None
    stop: Sequence[str] | str | None
    guarantee: Guarantee | None
    retries: int | None
    deadline: float | None
    logit_bias: Mapping[int, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one call; None means that this layer leaves the setting open.

    `exact=True` refuses the one approximate mode, `diffusion`; `exact=False` allows a policy to choose it. Each mode
    has its own defaults for `block_length` (some weights accept one value only), `threshold`, `rows` and
    `min_match`. `selection`, "vendor" or "text_first", applies to `diffusion` only; `exact_first`, whether the
    drafting pass decides a token of its own, to `linear_spec` only; the defaults of both come with the weights.
    `max_thinking_tokens` turns thinking on and limits its tokens. `guarantee="checked"` accepts schemas that the
    grammar cannot express in full: the finished output is validated, and retried with other seeds at most `retries`
    times. `deadline`, in seconds, asks for the fastest mode that is allowed. `logit_bias` maps token ids to numbers
    from -100 to 100 that are added to their logits, as in OpenAI's API: -100 bans a token wherever another one may
    come; a schema stays in force. It is kept as pairs in order of ids.
    """

    mode: str | None = None
    block_length: int | None = None
    threshold: float | None = None
    selection: str | None = None
    rows: int | None = None
    min_match: int | None = None
    exact_first: bool | None = None
    exact: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_thinking_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    guarantee: str | None = None
    retries: int | None = None
    deadline: float | None = None
    logit_bias: tuple[tuple[int, float], ...] | None = None

    def over(self, below: Settings) -> Settings:
        """Returns these settings, completed from `below` where a setting here is None."""
        merged = [under if own is None else own for own, under in zip(_values(self), _values(below), strict=True)]
        return Settings(**dict(zip(NAMES, merged, strict=True)))

    def given(self) -> dict[str, Any]:
        """Returns the settings that are not None, as JSON values."""
        found = {name: v for name, v in zip(NAMES, _values(self), strict=True) if v is not None}
        if self.logit_bias is not None:
            found["logit_bias"] = {str(token): bias for token, bias in self.logit_bias}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}

    said = given
    """The former name of `given`, kept for one release."""

    @classmethod
    def of(cls, options: Mapping[str, Any], origin: str) -> Settings:
        """Returns settings from a mapping. Raises PolicyError for unknown names, types and modes; its message begins
        with `origin`, the place where the settings were given."""
        unknown = sorted(set(options) - set(NAMES))
        if unknown:
            raise PolicyError(f"{origin}: unknown setting {unknown[0]!r}; known: {', '.join(NAMES)}", unknown[:1])
        typed: dict[str, Any] = {**options}
        if isinstance(options.get("stop"), str | Sequence):
            typed["stop"] = _tuple(options["stop"])
        if options.get("logit_bias") is not None:
            typed["logit_bias"] = _biases(options["logit_bias"], origin)
        for name, kind in _KINDS.items():
            if typed.get(name) is not None:
                typed[name] = _number(typed[name], kind) if kind in _NUMBERS else typed[name]
                if not isinstance(typed[name], kind):
                    raise PolicyError(f"{origin}: {name}={shown(options[name])}: expected {_EXPECTED[kind]}", [name])
        if not all(isinstance(stop, str) for stop in typed.get("stop") or ()):
            raise PolicyError(f"{origin}: stop={options['stop']!r}: expected {_EXPECTED[tuple]}", ["stop"])
        if typed.get("deadline") is not None and not typed["deadline"] > 0:
            raise PolicyError(f"{origin}: deadline={options['deadline']!r}: expected seconds, above 0", ["deadline"])
        settings = cls(**typed)
        if settings.guarantee not in (None, *GUARANTEES):
            raise PolicyError(f"{origin}: guarantee={settings.guarantee!r}: expected 'grammar' or 'checked'")
        if settings.retries is not None and settings.retries < 0:
            raise PolicyError(f"{origin}: retries={settings.retries}: expected a whole number from 0")
        if settings.mode is not None:
            known_mode(settings.mode, origin)
        if settings.selection is not None:
            _check_selection(settings.selection, settings.mode, origin)
        return settings


_KINDS: Final[dict[str, Any]] = {
    "block_length": int, "threshold": int | float, "selection": str, "rows": int, "min_match": int, "exact_first": bool,
    "exact": bool,
    "temperature": int | float,
    "top_k": int, "top_p": int | float, "seed": int, "max_tokens": int, "max_thinking_tokens": int, "stop": tuple,
    "guarantee": str, "retries": int,
    "deadline": int | float, "logit_bias": tuple,
}  # fmt: skip
_EXPECTED: Final[dict[Any, str]] = {
    int: "a whole number", int | float: "a number", bool: "true or false", tuple: "a string or a list of strings",
    str: "a string",
}  # fmt: skip
_NUMBERS: Final = (int, int | float)
NAMES: Final = tuple(field.name for field in fields(Settings))
_values: Final[Callable[[Settings], tuple[Any, ...]]] = attrgetter(*NAMES)

DEFAULTS: Final = Settings(
    temperature=0.0, top_k=0, top_p=1.0, seed=0, max_tokens=256, stop=(), guarantee="grammar", retries=2
)


def _check_selection(selection: str, mode: str | None, origin: str) -> None:
    """Raises PolicyError for an unknown `selection`, or one given together with a mode other than diffusion.

    Other options are ignored by modes that lack them; this one is refused, because it changes the text itself.
    """
    if selection not in SELECTIONS:
        expected = " or ".join(map(repr, SELECTIONS))
        raise PolicyError(f"{origin}: selection={selection!r}: expected {expected}", ["selection"])
    if mode not in (None, "diffusion"):
        raise PolicyError(f"{origin}: selection is no setting of mode {mode!r}; leave one of them out", ["selection"])


def known_mode(mode: str, origin: str) -> Mode:
    """Returns `mode` as a `Mode`. Raises PolicyError for an unknown one."""
    for known in MODES:
        if mode == known:
            return known
    raise PolicyError(f"{origin}: unknown mode {mode!r}; known: {', '.join(MODES)}", ["mode"])


def known_kind(name: str) -> StepKind | None:
    """Returns `name` as a step kind, or None where policies plan no steps of such a kind as a whole."""
    for kind in STEP_KINDS:
        if kind == name != "turn":
            return kind
    return None


def variant(text: str, origin: str) -> Settings:
    """Parses `linear_spec`, `linear_spec:8`, `quadratic_spec:8:2` or `lookup_spec:8:3` as settings: mode, block_length,
    and rows or min_match."""
    mode, *numbers = text.strip().split(":")
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise PolicyError(
            f"{origin}: {text!r}: expected MODE, MODE:BLOCK_LENGTH or MODE:BLOCK_LENGTH:ROWS (lookup_spec: MIN_MATCH)"
        )
    second = "min_match" if mode == "lookup_spec" else "rows"
    named = dict(zip(("block_length", second), map(int, numbers), strict=False))
    return Settings.of({"mode": mode, **named}, origin)


def options_of(mode: Mode, settings: Settings) -> SingleOptions:
    """Returns the options of `mode`; settings that the mode does not have are left out."""
    kind = OPTIONS[mode]
    return kind(**{f.name: value for f in fields(kind) if (value := getattr(settings, f.name)) is not None})


def sampling_of(settings: Settings) -> Sampling:
    """Returns the sampling parameters among `settings`. Raises RequestError for values out of range."""
    return Sampling(**{f.name: value for f in fields(Sampling) if (value := getattr(settings, f.name)) is not None})


def without_part(settings: Settings, mode: Mode) -> list[str]:
    """Notes on options of other modes than the one that decodes."""
    idle = [
        name for name in NAMES if name in _MODE_OPTIONS - _option_names(mode) and getattr(settings, name) is not None
    ]
    return [f"{name}={getattr(settings, name)!r} has no part in mode {mode!r}" for name in idle]


def check_entry(given: Settings, origin: str) -> None:
    """Raises PolicyError for an entry of a policy that no call could run: a setting out of range, or one that the
    entry's own mode lacks.

    An entry with mode diffusion needs `exact=False`, because entries are exact by default.
    """
    if not isinstance(given, Settings):
        raise PolicyError(f"{origin}: {shown(given)}: expected Settings; Policy.from_table reads plain tables")
    if given.mode == "diffusion" and given.exact is not False:
        raise PolicyError(
            f"{origin}: mode 'diffusion' is approximate, and this is an exact step; say exact = false beside it",
            ["mode"],
        )
    modes: tuple[Mode, ...] = MODES if given.mode is None else (known_mode(given.mode, origin),)
    for name in given.given():
        accepting: list[Mode] = [mode for mode in modes if name in _option_names(mode)]
        if name in _MODE_OPTIONS and not accepting:
            raise PolicyError(f"{origin}: {name} is no setting of mode {given.mode!r}; leave one of them out", [name])
        alone = Settings(**{name: getattr(given, name)})
        try:
            sampling_of(alone)
            for mode in accepting:
                options_of(mode, alone)
        except RequestError as error:
            raise PolicyError(f"{origin}: {error}", [name]) from None


def _option_names(mode: Mode) -> set[str]:
    return {option.name for option in fields(OPTIONS[mode])}


_MODE_OPTIONS: Final = frozenset().union(*(_option_names(mode) for mode in MODES))


def _number(value: Any, kind: Any) -> Any:
    """A number of numpy's or another library as Python's own; None for what is none, such as true and false."""
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return int(value)
    return float(value) if kind is not int and isinstance(value, Real) else None


def _tuple(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _biases(given: Any, origin: str) -> tuple[tuple[int, float], ...]:
    """Returns pairs of token id and bias, in order of ids; ids may be strings of digits, as JSON's keys are."""
    what = f"{origin}: logit_bias={shown(given)}: expected numbers by token id, from -100 to 100"
    if not isinstance(given, Mapping):
        raise PolicyError(what, ["logit_bias"])
    found: dict[int, float] = {}
    for key, value in given.items():
        digits = isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) <= _DIGITS
        token, bias = _number(int(key) if digits else key, int), _number(value, int | float)
        if token is None or bias is None or token in found:
            raise PolicyError(f"{what}; found {shown(key)}: {shown(value)}", ["logit_bias"])
        found[token] = float(bias)
    return tuple(sorted(found.items()))


_DIGITS: Final = 12
"""Maximum number of digits of a token id, because `int` of a long text is slow."""
