"""Masks after any history of steps, taken back and forked at random, against those of a matcher that never went back.

    python scripts/check_grammar.py SCHEMAS.jsonl.gz --steps 1000000 --json OUT

A walk starts at a schema's grammar and takes random steps: one allowed token or several at once, forced tokens (each
of which its mask must allow alone), back to an earlier point (a matcher kept there, and llguidance's own `rollback`), a
fork that goes on in the place of its parent, an end token where the text may end (which the gate keeps from the
grammar). After every step the mask is compared with that of a matcher compiled for this walk alone, which took the same
tokens from the start. Masks behind llguidance's own `rollback` are counted apart (`rolled`): no call rests on them.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher
from rich.progress import Progress
from torch import Tensor

from trimode.engine.decoding.gate import Gate
from trimode.engine.models.checkpoint import locate
from trimode.integrations.cli.schema_check import Checker, entries
from trimode.policy.errors import GrammarRuntimeError, SchemaRefused
from trimode.policy.grammar.matcher import Matcher
from trimode.policy.grammar.raw_matcher import RawMatcher
from trimode.policy.schema.targets import Target, schema_of

LIMITS = ("LexerTooComplex", "ParserTooComplex")
LENGTH = 160
"""Tokens after which a walk begins anew."""


def main() -> None:
    args = arguments()
    checker = Checker.load(args.checkpoint, "strict", True)
    end = locate(args.checkpoint).config().eos_token_ids[0]
    schemas = [schema_of(entry["schema"]) for path in args.files for _, entry in entries(path)]
    report = run(checker, schemas, args.steps, args.a_walk, args.seed, end)
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    raise SystemExit(1 if report["mismatches"] else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--a-walk", type=int, default=100, help="steps with one schema before the next")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def run(checker: Checker, schemas: list[Target], steps: int, a_walk: int, seed: int, end: int) -> dict[str, Any]:
    """Walks through the schemas in turn, again and again, until `steps` steps are done."""
    counts, walks, refused, stopped = Counter[str](), 0, set[int](), 0
    with Progress() as bar:
        task = bar.add_task("steps", total=steps)
        while done(counts) < steps:
            at = walks % len(schemas)
            walks += 1
            if at in refused:
                continue
            try:
                walk = Walk(checker, schemas[at], Random(f"{seed}:{walks}"), counts, end)
                for _ in range(a_walk):
                    walk.step()
            except SchemaRefused:
                refused.add(at)
            except GrammarRuntimeError:
                stopped += 1
            bar.update(task, completed=done(counts))
    mismatches, rolled = counts.pop("mismatch", 0), counts.pop("rolled mismatch", 0)
    return {
        "steps": counts.total(),
        "by_kind": dict(counts.most_common()),
        "mismatches": mismatches,
        "rolled": rolled,
        "walks": walks,
        "schemas": len(schemas) - len(refused),
        "stopped_by_the_grammar_engine": stopped,
        "seed": seed,
        "versions": {"python": platform.python_version(), "llguidance": version("llguidance")},
    }


def done(counts: Counter[str]) -> int:
    return counts.total() - counts["mismatch"] - counts["rolled mismatch"]


@dataclass
class Walk:
    """One schema's matcher on its way, the points that it can go back to, and its two witnesses."""

    checker: Checker
    schema: Target
    dice: Random
    counts: Counter[str]
    end: int
    ids: list[int] = field(default_factory=list)
    kept: list[tuple[int, Matcher]] = field(default_factory=list)

    def __post_init__(self) -> None:
        compiler = self.checker.compiler
        self.matcher = compiler.compile(self.schema).start
        self.fresh = compiler.compile(self.schema).start
        self.rolled: LLMatcher = compiler.compile(self.schema).start.raw.engine

    def step(self) -> None:
        """One random step and one comparison."""
        if len(self.ids) > LENGTH:
            self.back(0)
        kinds: list[Callable[[], str]] = [self.take, self.take, self.take_several, self.take_forced]
        kinds += [self.go_back, self.fork, self.finish]
        self.counts[self.dice.choice(kinds)()] += 1
        reference = self.fresh.fork()
        reference.advance(self.ids)
        expected = reference.mask()
        # llguidance's own way back remembers no keys: those are of the witness.
        rolled = RawMatcher(self.rolled, reference.raw.vocabulary, reference.raw.keys)
        self.counts["mismatch"] += not torch.equal(self.matcher.mask(), expected)
        self.counts["rolled mismatch"] += not torch.equal(torch.from_numpy(rolled.mask()), expected)

    def take(self) -> str:
        """One allowed token; at the end of the text, back to somewhere."""
        choices = allowed(self.matcher.mask())
        choices = choices[choices != self.end]
        if not len(choices):
            return self.go_back()
        self._advance([int(self.dice.choice(choices))])
        return "consume"

    def take_several(self) -> str:
        """Up to eight tokens that a copy found one after the other, taken at once."""
        scout, run = self.matcher.fork(), list[int]()
        for _ in range(self.dice.randint(2, 8)):
            choices = allowed(scout.mask())
            choices = choices[choices != self.end]
            if not len(choices):
                break
            run.append(int(self.dice.choice(choices)))
            scout.advance(run[-1:])
        self._advance(run)
        return "consume several"

    def take_forced(self) -> str:
        """Some of the tokens that are forced; masks of a matcher that takes them one by one must allow them alone."""
        run, scout = list(self.matcher.forced()), self.fresh.fork()
        scout.advance(self.ids)
        for at, token in enumerate(run):
            self.counts["mismatch"] += list(allowed(scout.mask())) != [token]
            scout.advance([] if token == self.end else run[at : at + 1])
        run = run[: self.dice.randint(1, len(run))] if run else []
        self._advance([token for token in run if token != self.end])
        return "consume forced" if run else self.take()

    def go_back(self) -> str:
        self.back(self.dice.randint(0, len(self.ids)))
        return "rollback"

    def back(self, length: int) -> None:
        """To the point after `length` tokens: from the nearest matcher kept before it, and by `rollback`."""
        self.kept = [(at, matcher) for at, matcher in self.kept if at <= length]
        at, matcher = self.kept[-1] if self.kept else (0, self.fresh)
        self.matcher = matcher.fork()
        self.matcher.advance(self.ids[at:length])
        self.rolled.rollback(len(self.ids) - length)
        del self.ids[length:]

    def fork(self) -> str:
        """The copy goes on; the parent is kept and must not notice."""
        self.kept.append((len(self.ids), self.matcher))
        self.matcher = self.matcher.fork()
        self.rolled = self.rolled.deep_copy() if self.dice.random() < 0.5 else self.rolled
        return "fork"

    def finish(self) -> str:
        """An end token through the gate, where the text may end; the grammar must not notice."""
        if self.end not in allowed(self.matcher.mask()):
            return self.take()
        Gate(self.matcher, (self.end,)).advance([self.end])
        return "end"

    def _advance(self, run: list[int]) -> None:
        self.matcher.advance(run)
        self.ids += run
        self.rolled.consume_tokens(run)
        if self.rolled.stop_reason() in LIMITS:
            raise GrammarRuntimeError(self.rolled.stop_reason())


def allowed(mask: Tensor) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Ids whose bits are set."""
    return np.flatnonzero(np.unpackbits(mask.numpy().view(np.uint8), bitorder="little"))


if __name__ == "__main__":
    main()
