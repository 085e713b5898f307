"""`trimode schema check`: which schemas compile, how long that takes, and whether grammar and jsonschema agree on data.

Knows the files (`{"schema": ..., "tests": [{"data": ..., "valid": bool}]}`) and one checkpoint's tokenizer. Does not
know how schemas become grammars.
"""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trimode.engine.errors import TrimodeError
from trimode.engine.models.checkpoint import locate
from trimode.policy.errors import GrammarRuntimeError, SchemaError, SchemaRefused, SchemaViolation
from trimode.policy.grammar import Compiled, GrammarCompiler, Walker
from trimode.policy.json_schema import Formats, texts_of
from trimode.policy.schema import Target, schema_of

Json = Any


@dataclass(frozen=True, slots=True)
class Datum:
    """One datum. `marked`: validity given in the file; `oracle` (a JSON key): validity by jsonschema, the validator;
    `grammar`: accepts, rejects or error; `refused_at`: offset in `text` where the grammar stopped."""

    marked: bool | None
    oracle: bool
    grammar: str
    text: str
    refused_at: int | None = None

    @property
    def wrong(self) -> bool:
        """Whether the grammar accepts what jsonschema, or the file, calls invalid."""
        return self.grammar == "accepts" and (not self.oracle or self.marked is False)

    @property
    def narrow(self) -> bool:
        """Whether the grammar rejects valid data."""
        return self.grammar == "rejects" and self.oracle and self.marked is not False


@dataclass(slots=True)
class Verdict:
    """One schema: compiled, or refused with pointer, keyword and hint. `compile_ms`: CPU time of compiling; `wall_ms`:
    wall clock of everything."""

    name: str
    compiled: bool = False
    rewritten: bool = False
    error: str | None = None
    pointer: str | None = None
    keyword: str | None = None
    hint: str | None = None
    compile_ms: float = 0.0
    wall_ms: float = 0.0
    notes: tuple[str, ...] = ()
    tests: list[Datum] = field(default_factory=list)

    def as_dict(self) -> dict[str, Json]:
        return asdict(self)


@dataclass(frozen=True)
class Checker:
    """Compiler and tokenizer, which all files share."""

    compiler: GrammarCompiler
    walker: Walker
    formats: Formats = "annotate"
    rewrites: bool = True

    @classmethod
    def load(cls, source: str | None, formats: Formats, rewrites: bool) -> Checker:
        """Loads the tokenizer of a checkpoint, without its weights. Raises CheckpointError."""
        checkpoint = locate(source)
        config, tokenizer = checkpoint.config(), checkpoint.tokenizer()
        compiler = GrammarCompiler(tokenizer, config.vocab_size, config.eos_token_ids)
        return cls(compiler, Walker(tokenizer, config.eos_token_ids[0]), formats, rewrites)

    def verdict(self, name: str, entry: dict[str, Json]) -> Verdict:
        verdict, began = Verdict(name), time.perf_counter()
        try:
            schema = schema_of(entry["schema"], formats=self.formats)
            start = time.process_time()
            compiled = self.compiler.compile(schema, self.rewrites)
            verdict.compile_ms = 1000 * (time.process_time() - start)
        except SchemaError as error:
            verdict.error, verdict.hint = type(error).__name__, str(error)
            if isinstance(error, SchemaRefused):
                verdict.pointer, verdict.keyword, verdict.hint = error.pointer, error.keyword, error.hint
            return verdict
        finally:
            verdict.wall_ms = 1000 * (time.perf_counter() - began)
        verdict.compiled, verdict.rewritten, verdict.notes = True, compiled.rewritten, compiled.notes
        verdict.tests = [self._tested(schema, compiled, test) for test in entry.get("tests") or ()]
        return verdict

    def _tested(self, schema: Target, compiled: Compiled, test: dict[str, Json]) -> Datum:
        marked, text, furthest = test.get("valid"), "", -1
        for written in dict.fromkeys(texts_of(test["data"], compiled.document)):
            try:
                stopped = self.walker.refused_at(compiled.start.fork(), written)
            except GrammarRuntimeError as error:
                return Datum(marked, _valid(schema, written), f"error: {error}", written)
            if stopped is None:
                return Datum(marked, _valid(schema, written), "accepts", written)
            if stopped > furthest:
                text, furthest = written, stopped
        return Datum(marked, _valid(schema, text), "rejects", text, furthest)


def entries(path: Path) -> Iterator[tuple[str, dict[str, Json]]]:
    """Yields names and contents: one of a .json file, one for each line of a .jsonl or .jsonl.gz file. Raises
    TrimodeError."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode("utf-8-sig")
        # Only at "\n": a string of JSON may hold U+2028 and U+0085, at which `splitlines` breaks.
        lines = [(f"{path.name}:{n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        for name, line in lines if ".jsonl" in path.suffixes else [(path.name, text)]:
            entry = json.loads(line)
            if not _is_entry(entry):
                raise TrimodeError(f'{name}: expected {{"schema": ..., "tests": [{{"data": ..., "valid": ...}}]}}')
            yield str(entry.get("id", name)), entry
    except (ValueError, RecursionError, EOFError, gzip.BadGzipFile) as error:
        raise TrimodeError(f"cannot read schemas from {path}: {error}") from None


def summary(verdicts: Sequence[Verdict]) -> dict[str, Json]:
    """Returns shares, counts and times over all files. `silently_wrong` counts data."""
    compiled = [verdict for verdict in verdicts if verdict.compiled]
    tests = [test for verdict in compiled for test in verdict.tests]
    refusals = [verdict for verdict in verdicts if not verdict.compiled]
    times = [verdict.compile_ms for verdict in compiled] or [0.0]
    return {
        "schemas": len(verdicts),
        "compiled": len(compiled),
        "compiled_share": len(compiled) / len(verdicts) if verdicts else None,
        "rewritten": sum(verdict.rewritten for verdict in compiled),
        "refused_by_keyword": dict(Counter(verdict.keyword or "" for verdict in refusals).most_common()),
        "refuse_ms_max": max((verdict.wall_ms for verdict in refusals), default=0.0),
        "compile_ms_p50": float(np.percentile(times, 50)),
        "compile_ms_p99": float(np.percentile(times, 99)),
        "tests": len(tests),
        "accepted_valid": sum(test.grammar == "accepts" and test.oracle for test in tests),
        "silently_wrong": sum(test.wrong for test in tests),
        "valid_but_rejected": sum(test.narrow for test in tests),
        "stopped": sum(test.grammar.startswith("error") for test in tests),
    }


def line_of(verdict: Verdict) -> str:
    """Returns one line: verdict, milliseconds, name, and the place of a refusal or the number of accepted data."""
    accepted = sum(test.grammar == "accepts" for test in verdict.tests)
    label = "rewritten" if verdict.rewritten else "compiled" if verdict.compiled else "refused"
    compiled = f"{accepted} of {len(verdict.tests)} accepted"
    what = compiled if verdict.compiled else f"at {verdict.pointer}: {verdict.hint}"
    return f"{label:9} {verdict.compile_ms if verdict.compiled else verdict.wall_ms:6.1f} ms  {verdict.name}  {what}"


def lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yields a line for each schema, notes, data on which grammar and jsonschema disagree, and the summary."""
    yield from map(line_of, verdicts)
    for verdict in verdicts:
        yield from (f"note: {verdict.name}: {note}" for note in verdict.notes)
        for test in verdict.tests:
            if test.wrong:
                yield f"SILENTLY WRONG: {verdict.name}: the grammar takes {test.text[:200]}"
            elif test.narrow:
                at = test.refused_at or 0
                yield f"narrower: {verdict.name}: stops before {test.text[at : at + 60]!r} in {test.text[:at][-60:]!r}"
            elif test.grammar.startswith("error"):
                yield f"stopped: {verdict.name}: {test.grammar}"
    for key, value in summary(verdicts).items():
        yield f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}"


def _valid(schema: Target, text: str) -> bool:
    try:
        schema.parse(text)
    except SchemaViolation:
        return False
    return True


def _is_entry(entry: Json) -> bool:
    tests = entry.get("tests") or [] if isinstance(entry, dict) and "schema" in entry else None
    return isinstance(tests, list) and all(isinstance(test, dict) and "data" in test for test in tests)
