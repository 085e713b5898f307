"""What both self-speculative modes share: a draft restricted by the grammar, and its verification by causal logits.

Knows gates and logits. Does not know drafters. Exact: each verified position takes the token that `ar` would
take there, because both read the same causal logits, the same gate and the same noise. The draft decides only how many
of them one pass yields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..result import Rejected, Section
from .gate import Gate
from .output import rejections
from .run import DecodeState
from .segment import Logits


@dataclass(slots=True)
class Draft:
    """Drafted tokens in order with their origins and the drafter's confidence; `ended`: the last one is an end token.

    `leaves`: the last one ends the part of the output that its mode may write.

    `gates`: the gate before each token, and the one after the last token unless that is an end token.
    """

    gates: list[Gate]
    tokens: list[int] = field(default_factory=list)
    origins: str = ""
    confidence: list[float] = field(default_factory=list)
    refused: list[Rejected] = field(default_factory=list)
    ended: bool = False
    leaves: bool = False

    @property
    def to_verify(self) -> list[int]:
        """The tokens that a verification pass reads: a drafted end token is predicted by the row before it."""
        return self.tokens[: len(self.tokens) - self.ended]

    def add(self, token: int, origin: str, confidence: float) -> None:
        self.tokens.append(token)
        self.origins += origin
        self.confidence.append(confidence)


def propose(gate: Gate, logits: Logits | None, limit: int, section: Section | None = None) -> Draft:
    """Returns the drafter's tokens; one that the gate refuses is replaced by the best allowed one.

    `gate` does not move. The draft ends where `section`, the part of the output that its mode may write, does.
    """
    draft = Draft([gate])
    sampled = [] if logits is None or limit < 1 or not len(logits.rows) else _pairs(logits)[:limit]
    for row, (token, confidence) in enumerate(sampled):
        gate = draft.gates[-1].fork()
        if (forced := gate.forced()) is not None:
            draft.add(forced, "f", 1.0)
        else:
            if not gate.allows(token):
                assert logits is not None
                refused = token
                token, confidence = _steered(logits, gate, row)
                draft.refused.append(Rejected(token=refused, reason="schema", instead=confidence))
            draft.add(gate.resolve(token), "a", confidence)
        if draft.tokens[-1] in gate.ends:
            draft.ended = True
            break
        gate.advance(draft.tokens[-1:])
        draft.gates.append(gate)
        if section not in (None, gate.section):
            draft.leaves = True
            break
    return draft


@dataclass(frozen=True, slots=True)
class Verdict:
    """The tokens that `ar` takes, up to the first one that is not in the draft, with origins; and the gate after them.

    `instead`: the probability of the last token, if the model chose it and the draft has another one or none there.
    """

    tokens: list[int]
    origins: str
    gate: Gate
    instead: float | None = None


def verify(
    run: DecodeState, draft: Draft, logits: Logits, taken: Sequence[int], passes: int, before: str | None = None
) -> int:
    """Commits the draft tokens that causal `logits` choose too, and the next token; returns how many are accepted.

    `taken`: tokens of this round that the gate has passed already, with the provenance codes `before`; None: forced.
    """
    found = verdict(draft, logits)
    tokens, origins, run.gate = found.tokens, found.origins, found.gate
    accepted = agreement(draft.tokens, tokens)
    rejected = [t for t, o in zip(draft.tokens[accepted:], draft.origins[accepted:], strict=True) if o == "a"]
    # One token stays pending, because a pass needs a row: without the draft's successor that is the draft's last.
    cached = min(accepted, len(draft.to_verify), len(tokens) - 1)
    run.mark_cached(len(run.pending) + cached, tokens[cached:])
    run.output.commit(
        run.mode,
        [*taken, *tokens],
        ("f" * len(taken) if before is None else before) + origins,
        drafted=origins.count("a") + len(draft.refused) + len(rejected),
        rejected=[*draft.refused, *rejections(rejected, "target", found.instead)],
        forward_passes=passes,
    )
    return accepted


def verdict(draft: Draft, logits: Logits) -> Verdict:
    """Compares the draft with `logits`, under the draft's own gates; only a choice that differs is resolved again."""
    tokens, origins, unmasked = list[int](), "", logits.sample_unmasked(draft.gates[0].constrains)
    for at in range(logits.rows.shape[0] - draft.leaves):
        drafted = draft.tokens[at] if at < len(draft.tokens) else None
        agreed = unmasked is not None and unmasked.tokens[at] == drafted
        if drafted is not None and (agreed or draft.origins[at] == "f"):
            token, origin, instead = drafted, draft.origins[at], None
        else:
            token, origin, instead = _taken(draft.gates[at], logits, at)
            origin = "a" if origin == "c" and token == drafted else origin
        tokens.append(token)
        origins += origin
        if token != drafted:
            return Verdict(tokens, origins, draft.gates[at], instead)
    return Verdict(tokens, origins, draft.gates[-1])


def _taken(gate: Gate, logits: Logits, row: int) -> tuple[int, str, float | None]:
    """Returns the token at a row under gate and logits, its origin, and its probability if it is the model's choice.

    The gate moves past the token.
    """
    if (forced := gate.forced()) is not None:
        gate.advance([forced])
        return forced, "f", None
    sampled = logits.sample_gated(gate, row)
    token = gate.resolve(sampled.tokens[0])
    gate.advance([token])
    return (token, "c", sampled.confidence[0]) if token == sampled.tokens[0] else (token, "b", None)


def agreement(draft: Sequence[int], chosen: Sequence[int]) -> int:
    """Returns the number of leading draft tokens that verification chose too."""
    pairs = enumerate(zip(draft, chosen, strict=False))
    return next((at for at, (d, c) in pairs if d != c), min(len(draft), len(chosen)))


def _steered(logits: Logits, gate: Gate, row: int) -> tuple[int, float]:
    sampled = logits.sample_masked(gate.mask(), [row])
    return sampled.tokens[0], sampled.confidence[0]


def _pairs(logits: Logits) -> list[tuple[int, float]]:
    sampled = logits.sample()
    return list(zip(sampled.tokens, sampled.confidence, strict=True))
