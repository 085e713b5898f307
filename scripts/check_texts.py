"""Grammars against jsonschema on texts: whatever a grammar takes has to be JSON that fits its schema.

    python scripts/check_texts.py --texts 300000 --json OUT

Schemas of mixed keywords are made up at random (`samples/texts_at_random.py`). For each, texts are: random walks
through the grammar's masks with the grammar's own ending, canonical texts of random values, and mutants of both, with
numbers at and beside the schema's bounds, characters spelled as escapes and pieces put in. `wrong`: taken, though
Python's json cannot read the text, a key stands twice in it, or jsonschema refuses it. `narrow`: valid and not taken,
by reason.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from samples.texts_at_random import Made, numbers_in

from trimode.engine.models.checkpoint import locate
from trimode.integrations.cli.schema_check import Checker
from trimode.policy.errors import GrammarRuntimeError, SchemaError, SchemaRefused, SchemaTooComplex, SchemaViolation
from trimode.policy.grammar.compiler import Compiled
from trimode.policy.grammar.matcher import Matcher
from trimode.policy.json_schema.serialize import texts_of
from trimode.policy.schema.targets import Schema, schema_of

Json = Any
SHOWN = 20
"""Examples of each kind that a report holds."""
_LONG_NUMBER = re.compile(r"\d[.]?\d{14}|[eE]\d|[eE][+-]\d|\d{16}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=300_000)
    parser.add_argument("--a-schema", type=int, default=60, help="texts for one schema before the next")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    end = locate(args.checkpoint).config().eos_token_ids[0]
    check = Check(Checker.load(args.checkpoint, "strict", True), end, args.seed)
    while check.texts < args.texts:
        check.schema(args.a_schema)
        if check.schemas % 200 == 0:
            print(f"{check.texts:,} texts, {check.schemas:,} schemas, {len(check.wrong)} wrong", flush=True)
    report = check.report()
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(1 if check.wrong else 0)


@dataclass
class Check:
    """What was counted so far. The same seed makes the same schemas and texts."""

    checker: Checker
    end: int
    seed: int = 0
    texts: int = 0
    schemas: int = 0
    taken: int = 0
    invalid: int = 0
    walks: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    narrow: Counter[str] = field(default_factory=Counter[str])
    wrong: list[Json] = field(default_factory=list[Json])
    shown: dict[str, list[Json]] = field(default_factory=dict[str, list[Json]])

    def schema(self, count: int) -> None:
        """The next schema, with `count` texts."""
        dice = Random(f"{self.seed}:{self.schemas}")
        made = Made(dice)
        document = made.schema()
        self.schemas += 1
        try:
            schema = schema_of(document)
            assert isinstance(schema, Schema)
            compiled = self.compiled(schema)
        except SchemaError as error:
            self.refused[
                f"{type(error).__name__} {error.keyword}" if isinstance(error, SchemaRefused) else "other"
            ] += 1
            return
        numbers, texts = numbers_in(document), list[str]()
        for _ in range(4):
            self.walks += 1
            texts += self.walked(compiled.start, dice)
        texts += [text for _ in range(6) for text in texts_of(made.value(), compiled.document)]
        while len(texts) < count:
            texts.append(made.mutant(dice.choice(texts), numbers))
        for text in texts[:count]:
            self.text(schema, compiled, text)

    def compiled(self, schema: Schema) -> Compiled:
        """Once more where compilations that were given up still run, as long as they do. Raises SchemaError."""
        while True:
            try:
                return self.checker.compiler.compile(schema)
            except SchemaTooComplex as error:
                if "try again" not in error.hint:
                    raise
                time.sleep(0.1)

    def walked(self, start: Matcher, dice: Random) -> list[str]:
        """A random way through the masks, with the ending that the grammar knows."""
        matcher, ids, vocabulary = start.fork(), list[int](), start.raw.vocabulary
        try:
            for _ in range(dice.choice((4, 12, 24))):
                bits = np.unpackbits(matcher.mask().numpy().view(np.uint8), bitorder="little")
                choices = np.flatnonzero(bits)
                token = int(dice.choice(choices)) if len(choices) else self.end
                if token == self.end:
                    break
                matcher.advance([token])
                ids.append(token)
            ending = matcher.completion(200)
        except GrammarRuntimeError:
            return []
        text = vocabulary.text_of([*ids, *(ending or ())[:-1]])
        return [text.decode("utf-8")] if ending else []

    def text(self, schema: Schema, compiled: Compiled, text: str) -> None:
        """Counts what grammar and readers say of one text."""
        self.texts += 1
        raw = compiled.start.raw
        try:
            data = text.encode()
        except UnicodeEncodeError:
            return
        taken, reason = raw.fork().completes(raw.vocabulary.tokens_of(data)), None
        try:
            schema.parse(text)
            reason = "a key twice" if schema.remarks(text) else None
        except SchemaViolation as error:
            reason = str(error)
        self.taken += taken
        self.invalid += reason is not None
        if taken and reason is not None:
            self.wrong.append({"schema": schema.document, "text": text, "why": reason[:200]})
            print("wrong:", json.dumps(self.wrong[-1]), flush=True)
        elif reason is None and not taken:
            kind = self._kind(compiled, text)
            self.narrow[kind] += 1
            examples = self.shown.setdefault(kind, [])
            if len(examples) < SHOWN and len(text) < 200:
                examples.append({"schema": schema.document, "text": text})

    def _kind(self, compiled: Compiled, text: str) -> str:
        """Why a valid text is not taken, as far as its looks tell."""
        value, raw = json.loads(text), compiled.start.raw
        for other in texts_of(value, compiled.document):
            if other != text and raw.fork().completes(raw.vocabulary.tokens_of(other.encode("utf-8", "surrogatepass"))):
                return "another spelling or order is taken"
        written = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if "\\u00" in written or "\x7f" in written:
            return "control characters without a short escape"
        if written != text:
            return "not the canonical spelling"
        if _LONG_NUMBER.search(text):
            return "numbers of many digits, or close to a bound"
        return "another order of keys, or unknown" if "{" in text else "unknown"

    def report(self) -> dict[str, Json]:
        """The counts, and some examples."""
        return {
            "texts": self.texts, "schemas": self.schemas, "refused": dict(self.refused.most_common()),
            "walks": self.walks, "taken": self.taken, "invalid": self.invalid, "wrong": len(self.wrong),
            "narrow": dict(self.narrow.most_common()), "seed": self.seed,
            "versions": {"python": platform.python_version(), "llguidance": version("llguidance"),
                         "jsonschema": version("jsonschema")},
            "wrong_examples": self.wrong[:SHOWN], "narrow_examples": {k: v[:3] for k, v in self.shown.items()},
        }  # fmt: skip


if __name__ == "__main__":
    main()
