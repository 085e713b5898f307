"""Measures how far the probabilities of decisions can be trusted: on recorded dialogues, what the assistant did next.

    python scripts/decisions/measure_calibration.py EVAL_FOLDER --points 600 --json reference.json
    python scripts/decisions/measure_calibration.py EVAL_FOLDER --model smollm2 --points 200 --json smollm2.json

At the end of a user's turn there is one predicate for each tool ("does the assistant call it before the user speaks
again?") and one choice among the tools and none of them; the recording has the answers. Dialogues are split in halves:
a temperature and, for predicates, Platt's line are fitted on the first, and everything is reported on the second.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np

import trimode
from trimode.engine.errors import PromptTooLong
from trimode.integrations.bench.episodes import Episode, read_episodes
from trimode.policy.calls import Engine
from trimode.policy.decisions import DecisionQuestion

SOURCES = ("star", "sgd_dev", "sgd_test", "tm4")
NONE = "no tool"
BINS = 10


@dataclass(frozen=True, slots=True)
class Point:
    """The end of one user's turn. `called`: tools called before the user spoke again."""

    dialogue: str
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...]
    called: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probabilities of the options, and the index of the true one; `dialogue` decides the half."""

    dialogue: str
    logprobs: tuple[float, ...]
    truth: int


def points_of(episode: Episode) -> Iterator[Point]:
    """Yields the ends of the user's turns of one dialogue."""
    messages = episode.messages
    ends = [at for at, message in enumerate(messages) if message["role"] == "user"]
    for at, following in zip(ends, [*ends[1:], len(messages)], strict=True):
        calls = [message for message in messages[at:following] if message.get("kind") == "tool_call"]
        names = tuple(json.loads(call["content"])["name"] for call in calls)
        yield Point(episode.id, messages[: at + 1], episode.tools, names)


def sampled(folder: Path, count: int, seed: int) -> list[Point]:
    """Returns points at random, as many of each source, with two tools or more."""
    rng, found = random.Random(seed), list[Point]()
    for source in SOURCES:
        every = [point for one in read_episodes(folder / f"{source}.jsonl.gz") for point in points_of(one)]
        usable = [point for point in every if 2 <= len(point.tools) <= 12]
        found += rng.sample(usable, min(len(usable), count // len(SOURCES)))
    return found


def asked(point: Point) -> tuple[list[DecisionQuestion], list[int]]:
    """Returns the questions at a point, and the index of each true answer."""
    names = [str(tool["name"]) for tool in point.tools]
    described = {str(tool["name"]): str(tool.get("description", "")) for tool in point.tools}
    predicates = [
        DecisionQuestion.predicate(
            f"Does the assistant call the tool {name} ({described[name]}) next, before the user speaks again?"
        )
        for name in names
    ]
    choice = DecisionQuestion.choice("Which tool does the assistant call next?", {**described, NONE: "it answers"})
    truths = [0 if name in point.called else 1 for name in names]
    first = names.index(point.called[0]) if point.called and point.called[0] in names else len(names)
    return [*predicates, choice], [*truths, first]


def scored(engine: Engine, points: Sequence[Point]) -> tuple[list[Scored], list[Scored], int]:
    """Returns the predicates, the choices, and the number of points that did not fit the context."""
    predicates, choices, left = list[Scored](), list[Scored](), 0
    for point in points:
        questions, truths = asked(point)
        try:
            answers = engine.decide([*point.messages], questions).answers
        except PromptTooLong:
            left += 1
            continue
        made = [Scored(point.dialogue, one.logprobs, truth) for one, truth in zip(answers, truths, strict=True)]
        predicates += made[:-1]
        choices += made[-1:]
    return predicates, choices, left


def shares(one: Scored, temperature: float) -> list[float]:
    top = max(one.logprobs)
    weights = [exp((logprob - top) / temperature) for logprob in one.logprobs]
    return [weight / sum(weights) for weight in weights]


def loss(data: Sequence[Scored], temperature: float) -> float:
    """Returns the mean negative log-likelihood, in nats."""
    return -sum(log(max(shares(one, temperature)[one.truth], 1e-12)) for one in data) / len(data)


def best_temperature(data: Sequence[Scored]) -> float:
    """Returns the temperature with the least loss, of a grid that is even in its logarithm."""
    return min((10 ** (step / 50) for step in range(-50, 101)), key=lambda warmth: loss(data, warmth))


def platt(data: Sequence[Scored]) -> tuple[float, float]:
    """Returns a and b with the least loss of sigmoid(a * logit + b), by Newton's method; predicates only."""
    x = np.array([one.logprobs[0] - one.logprobs[1] for one in data])
    truth = np.array([1.0 - one.truth for one in data])
    rows, line = np.stack([x, np.ones_like(x)], axis=1), np.array([0.0, 0.0])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-rows @ line))
        slope = rows.T @ (chance - truth) + 1e-3 * line  # a little pull to 0, so that separable data has an end
        curve = (rows * (chance * (1 - chance))[:, None]).T @ rows + 1e-3 * np.eye(2)
        line = line - np.linalg.solve(curve, slope)
    return float(line[0]), float(line[1])


def along(line: tuple[float, float], one: Scored) -> float:
    """Returns the probability of yes by Platt's line."""
    return float(1 / (1 + np.exp(-(line[0] * (one.logprobs[0] - one.logprobs[1]) + line[1]))))


@dataclass(frozen=True, slots=True)
class Row:
    """Answers whose confidence is in one bin: how many, their mean confidence, the share that was right."""

    low: float
    count: int
    confidence: float
    right: float


def reliability(pairs: Sequence[tuple[float, bool]]) -> tuple[list[Row], float]:
    """Returns rows of ten bins, without empty ones, and the expected calibration error."""
    rows = list[Row]()
    for at in range(BINS):
        inside = [pair for pair in pairs if min(int(pair[0] * BINS), BINS - 1) == at]
        if inside:
            mean = sum(confidence for confidence, _ in inside) / len(inside)
            rows.append(
                Row(at / BINS, len(inside), round(mean, 4), round(sum(hit for _, hit in inside) / len(inside), 4))
            )
    error = sum(row.count * abs(row.confidence - row.right) for row in rows) / max(1, len(pairs))
    return rows, round(error, 4)


def predicate_report(data: Sequence[Scored], chances: Sequence[float]) -> dict[str, Any]:
    """Reports probabilities of yes: bins of the probability itself against the share of true ones."""
    truths = [one.truth == 0 for one in data]
    rows, error = reliability(list(zip(chances, truths, strict=True)))
    base = sum(truths) / len(truths)
    clipped = [min(max(chance, 1e-12), 1 - 1e-12) for chance in chances]
    return {
        "answers": len(data),
        "true": round(base, 4),
        "accuracy": round(
            sum((chance >= 0.5) == truth for chance, truth in zip(chances, truths, strict=True)) / len(data), 4
        ),
        "auc": round(auc(chances, truths), 4),
        "brier": round(sum((c - t) ** 2 for c, t in zip(chances, truths, strict=True)) / len(data), 4),
        "brier_of_the_base_rate": round(base * (1 - base), 4),
        "nll": round(-sum(log(c if t else 1 - c) for c, t in zip(clipped, truths, strict=True)) / len(data), 4),
        "ece": error,
        "bins": [asdict(row) for row in rows],
    }


def auc(chances: Sequence[float], truths: Sequence[bool]) -> float:
    """Returns how often a true one is above a false one; ties count half."""
    yes = [c for c, t in zip(chances, truths, strict=True) if t]
    no = [c for c, t in zip(chances, truths, strict=True) if not t]
    return sum((a > b) + (a == b) / 2 for a in yes for b in no) / max(1, len(yes) * len(no))


def choice_report(data: Sequence[Scored], temperature: float) -> dict[str, Any]:
    """Reports the confidence of the likeliest option against how often it was the true one."""
    found = [(shares(one, temperature), one.truth) for one in data]
    pairs = [(max(share), share.index(max(share)) == truth) for share, truth in found]
    rows, error = reliability(pairs)
    last = sum(one.truth == len(one.logprobs) - 1 for one in data) / len(data)
    return {
        "answers": len(data),
        "no_tool": round(last, 4),
        "accuracy": round(sum(hit for _, hit in pairs) / len(pairs), 4),
        "mean_confidence": round(sum(confidence for confidence, _ in pairs) / len(pairs), 4),
        "nll": round(loss(data, temperature), 4),
        "ece": error,
        "bins": [asdict(row) for row in rows],
    }


def halves(data: Sequence[Scored], seed: int) -> tuple[list[Scored], list[Scored]]:
    """Splits answers by dialogue, so that no dialogue is in both halves."""
    names = sorted({one.dialogue for one in data})
    random.Random(seed).shuffle(names)
    first = set(names[: len(names) // 2])
    return [one for one in data if one.dialogue in first], [one for one in data if one.dialogue not in first]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the eval split of agent_episodes")
    parser.add_argument("--model", help="as `Engine.load` takes it; default: the bundled checkpoint")
    parser.add_argument("--points", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    points = sampled(given.folder, given.points, given.seed)
    with Engine.load(given.model) as engine:
        predicates, choices, left = scored(engine, points)
        runtime = asdict(engine.runtime)
    fit, held = halves(predicates, given.seed)
    fit_choices, held_choices = halves(choices, given.seed)
    warmth, line, chosen = best_temperature(fit), platt(fit), best_temperature(fit_choices)
    found = {
        "runtime": runtime,
        "version": trimode.__version__,
        "points": len(points) - left,
        "too_long": left,
        "predicate": {
            "as_scored": predicate_report(held, [shares(one, 1.0)[0] for one in held]),
            "temperature": round(warmth, 3),
            "with_temperature": predicate_report(held, [shares(one, warmth)[0] for one in held]),
            "platt": [round(part, 3) for part in line],
            "with_platt": predicate_report(held, [along(line, one) for one in held]),
        },
        "choice": {
            "as_scored": choice_report(held_choices, 1.0),
            "temperature": round(chosen, 3),
            "with_temperature": choice_report(held_choices, chosen),
        },
    }
    text = json.dumps(found, indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
