"""What a caller gets back from one call: text, value, how it was decoded, and notes on every deviation.

Knows the engine's result and the plan it was decoded by. Does not know spans or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from math import exp
from typing import Any, Final, Generic

from typing_extensions import TypeVar  # with a default, which Python has from 3.13

from trimode.engine.result import DecodeResult, FinishReason, Round, Stats

from ..audit import RemoteUsed, plain
from ..errors import Attempt
from ..remote import NotReported
from ..schema import IdentifiedCall
from ..selection import DecodePlan, Guarantee
from ..telemetry import Spelling, legend, panel, tape
from ..turns import TurnSegment

CALLS: Final = 50
"""Number of a session's results that a notebook shows."""
TOKENS_EACH: Final = 400
"""Number of tokens that a notebook shows of each result of a session."""
_SHOWN: Final = 60
"""Number of characters of text in a result's `repr`."""
T_co = TypeVar("T_co", covariant=True, default=Any)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Generic[T_co]):
    """`value`: what the step returns, parsed output under a schema and the text without one; None in an error's result.
    `valid`: the validators' verdict; None without a schema.

    `text` is the whole output; with a thinking budget, `thinking` and `answer` are its parts without the marker.
    `notes` tells everything that differs from the request (a cut, a missing draft adapter, ...). `guarantee`: how the
    schema was enforced: "grammar", all of it by the token mask, or "checked", part of it by validating the finished
    output; None without a schema. `failed`: earlier attempts under "checked". `choice`: the scores of all candidates
    of a choice step. `segments`: the parts of a turn, empty for other calls. `prompt_ids`: the prompt as the model read
    it, which `Engine.token_logprobs` takes. `remote`: of a call to a server, who answered and what it reported, with
    None for what it did not say; ids, rounds and most of `stats` are absent then.
    """

    text: str
    thinking: str | None
    answer: str
    value: T_co
    valid: bool | None
    decoded: DecodeResult
    plan: DecodePlan
    audit_id: str
    notes: tuple[str, ...] = ()
    guarantee: Guarantee | None = None
    choice: ScoredChoice | None = None
    segments: tuple[TurnSegment, ...] = ()
    failed: tuple[Attempt, ...] = ()
    prompt_ids: tuple[int, ...] = field(default=(), repr=False)
    remote: RemoteUsed | None = field(default=None, repr=False)
    spelling: Spelling = field(default_factory=Spelling, repr=False, compare=False)

    def __repr__(self) -> str:
        """One line: the text's beginning and how it was decoded."""
        notes = [f"{len(self.notes)} note{'s' if len(self.notes) > 1 else ''}"] if self.notes else []
        return f"<Result {_shortened(self.text)}: {', '.join([self.summary, *notes])}>"

    def _repr_html_(self) -> str:
        """HTML for notebooks: the text with each token in the colour of its origin."""
        return panel(self.summary, tape(self.trace, self.spelling, self.text), legend(self.trace), notes=self.notes)

    @property
    def summary(self) -> str:
        """Step, mode, counts and outcome in one line: `step 'act', linear_spec, 25 tokens in 12 passes, valid`."""
        stats, name = self.stats, self.plan.context.name
        modes = " > ".join(dict.fromkeys(round_.mode for round_ in self.trace)) or self.plan.mode
        verdict = {True: "valid", False: "INVALID", None: ""}[self.valid]
        failed = f"{len(self.failed)} failed before" if self.failed else ""
        cut = "cut by its limit" if self.finish_reason == "length" else ""
        passes = (
            f"{stats.forward_passes} passes" if self.remote is None else f"{stats.seconds:.2g} s by {self.remote.pool}"
        )
        counts = f"{stats.output_tokens} tokens in {passes}"
        return ", ".join(filter(None, (f"step {name!r}" if name else "", modes, counts, verdict, cut, failed)))

    @property
    def calls(self) -> tuple[IdentifiedCall, ...]:
        """Tool calls of a turn, in order, each with an id of its own in the conversation; empty for other calls."""
        return tuple(call for segment in self.segments for call in segment.calls)

    @property
    def content(self) -> str | None:
        """What a turn says besides thinking and calls; None if nothing. For other calls, `answer`."""
        if not self.segments:
            return self.answer
        said = "".join(one.text for one in self.segments if one.kind in ("prose", "json"))
        return (said.strip() if self.calls else said) or None

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Output ids, the end token included."""
        return self.decoded.token_ids

    @property
    def seed(self) -> int:
        """The seed of this attempt: the requested one or, after failed attempts under "checked", a later one."""
        return self.plan.settings.seed or 0

    @property
    def finish_reason(self) -> FinishReason:
        return self.decoded.finish_reason

    @property
    def stats(self) -> Stats:
        return self.decoded.stats

    @property
    def forced_close(self) -> bool:
        """Whether constrained output was completed by force to fit the token budget."""
        return self.decoded.forced_close

    @property
    def trace(self) -> tuple[Round, ...]:
        """Rounds in order: what each pass, draft-and-verify cycle or block proposed and kept."""
        return self.decoded.rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredChoice:
    """Scores of a choice. `logprobs`: for each option, in the given order, log-probability in nats that the model at
    temperature 1 writes exactly this option and then ends.

    Of a server: `how`, by what means it gave them, then of going on with the option, without the end; or no `logprobs`
    and `written`, the option that it wrote under a constraint.
    """

    options: tuple[str, ...]
    logprobs: tuple[float, ...]
    stats: Stats
    how: str = ""
    written: str | None = None

    @property
    def text(self) -> str:
        """The likeliest option, the first one on a tie; or the one that was written."""
        if self.written is not None:
            return self.written
        return self.options[self.logprobs.index(max(self.logprobs))]

    @property
    def probabilities(self) -> tuple[float, ...]:
        """The options' probabilities, normalized to sum to 1. Raises NotReported where an option was written."""
        if not self.logprobs:
            raise NotReported("log-probabilities of the options")
        top = max(self.logprobs)
        weights = [exp(logprob - top) for logprob in self.logprobs]
        return tuple(weight / sum(weights) for weight in weights)


def _shortened(text: str) -> str:
    """Returns the beginning of the text, quoted, without line ends."""
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...")


def session_html(title: str, results: Sequence[Result]) -> str:
    """Returns the first CALLS results of a session as HTML for notebooks, one below the other."""
    shown = results[:CALLS]
    tapes = [(one.summary, tape(one.trace, one.spelling, one.text, TOKENS_EACH)) for one in shown]
    parts = [f"<div>{escape(plain(summary))}{colours}</div>" for summary, colours in tapes]
    left = [f"{len(results) - CALLS} later steps are not shown"] if len(results) > CALLS else []
    return panel(title, *parts, legend([round_ for one in shown for round_ in one.trace]), notes=left)
