"""Counts that schema-bound output is always valid, always ends in its budget, and is the same in every exact mode.

    python scripts/check_schemas.py SCHEMAS.jsonl.gz --budgets 0 8 64 --json OUT

Each schema that compiles (a line of the file has it under `schema`), and each type in samples/pydantic_types.py, is
decoded by the reference checkpoint and by a model of random weights, at temperature 1.5, in every mode, with the least
budget that is admitted and with more. An output counts as valid when `json`, `jsonschema` with formats, pydantic for
its types, and the engine's own check take it, and no object has a key twice.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jsonschema.validators import validator_for
from pydantic import ValidationError
from rich.progress import track
from samples.pydantic_types import TYPES

from trimode.engine.errors import PromptTooLong, TrimodeError
from trimode.engine.models.checkpoint import Checkpoint
from trimode.engine.models.model import Transformer
from trimode.engine.token_engine import KV_BYTES, TokenEngine
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import BudgetTooSmall, SchemaError
from trimode.policy.schema.targets import Schema, Target, doubled_keys, schema_of

PROMPT = "Fill in the form."
MODES: tuple[dict[str, Any], ...] = (
    {"mode": "ar"},
    {"mode": "linear_spec", "block_length": 8},
    {"mode": "quadratic_spec", "block_length": 6},
    {"mode": "lookup_spec"},
    {"mode": "diffusion", "block_length": 16, "threshold": 0.5},
)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    reference = Engine.load()
    engines = {"reference": reference, "random": random_engine(reference)}
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {args.threads} threads",
        "schemas": f"{args.file.name}, 1 in {args.every}, and {len(TYPES)} types",
        "temperature": args.temperature,
        "budgets": [f"least + {more}" for more in args.budgets],
        "models": {},
    }
    for name, engine in engines.items():
        report["models"][name] = counted(engine, args, name)
    text = json.dumps(report, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")
    bad = [problem for model in report["models"].values() for problem in model["problems"]]
    sys.exit(bool(bad))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--budgets", type=int, nargs="+", default=[0, 8, 64], help="tokens beyond the least")
    parser.add_argument("--temperature", type=float, default=1.5)
    parser.add_argument("--every", type=int, default=1, help="each so many-th schema only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def random_engine(like: Engine) -> Engine:
    """A small model that knows nothing, behind the tokenizer of `like`."""
    small: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 16}
    config = replace(like.tokens.model.config, **small, num_attention_heads=2, num_key_value_heads=1)
    torch.manual_seed(0)
    model = Transformer(config).eval().requires_grad_(False)
    tokens = TokenEngine(model, like.tokenizer.decode, like.tokenizer.vocab_size, kv_bytes=KV_BYTES)
    return Engine(tokens, like.tokenizer, Checkpoint(like.checkpoint.directory, "random"))


def counted(engine: Engine, args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Counts over all schemas, and a line for each thing that did not hold."""
    counts, problems = Counter[str](), list[str]()
    schemas = [*typed(), *list(read(args.file))[:: args.every]]
    for at, (label, schema) in enumerate(track(schemas, description=name)):
        try:
            need = least(engine, schema)
        except SchemaError:
            counts["refused schemas"] += 1
            continue
        counts["schemas"] += 1
        for more in args.budgets:
            seen, found = tried(engine, schema, need + more, args.temperature, seed=at)
            counts += seen
            problems += [f"{label}, least + {more}: {problem}" for problem in found]
    return {**counts, "problems": problems}


def read(file: Path) -> Iterator[tuple[str, Target]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            fields = json.loads(line)
            try:
                yield str(fields.get("id", number)), schema_of(fields["schema"], formats="annotate")
            except SchemaError:
                continue


def typed() -> Iterator[tuple[str, Target]]:
    return ((f"type {name}", schema_of(kind, formats="annotate")) for name, kind in TYPES.items())


def least(engine: Engine, schema: Target) -> int:
    """The least budget that a call with `schema` is admitted with."""
    try:
        engine.generate(PROMPT, schema=schema, max_tokens=1)
    except BudgetTooSmall as refused:
        return refused.need
    return 1


def tried(engine: Engine, schema: Target, budget: int, temperature: float, seed: int) -> tuple[Counter[str], list[str]]:
    """One schema in one budget, in every mode."""
    counts, problems, exact = Counter[str](), list[str](), set[tuple[int, ...]]()
    for options in MODES:
        try:
            result = engine.generate(
                PROMPT, schema=schema, max_tokens=budget, temperature=temperature, seed=seed, **options
            )
        except PromptTooLong:
            counts["beyond the context"] += 1
            continue
        except TrimodeError as error:
            problems.append(f"{options['mode']}: {type(error).__name__}: {error}")
            continue
        counts["outputs"] += 1
        counts["output tokens"] += len(result.token_ids)
        counts["forced to close"] += result.forced_close
        counts["outputs of types"] += isinstance(schema, Schema) and schema.adapter is not None
        if options["mode"] != "diffusion":
            exact.add(result.token_ids)
        problems += [f"{options['mode']}: {problem}" for problem in wrong(result.text, schema)]
        if result.finish_reason != "stop":
            problems.append(f"{options['mode']}: ended by {result.finish_reason}")
    if len(exact) > 1:
        problems.append("exact modes differ")
    return counts, problems


def wrong(text: str, schema: Target) -> list[str]:
    """What `json`, a fresh `jsonschema` validator and pydantic find wrong."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return [f"not JSON: {error}"]
    kind = validator_for(schema.document)
    oracle = kind(schema.document, format_checker=kind.FORMAT_CHECKER)
    found = [f"jsonschema: {error.message}"[:200] for error in oracle.iter_errors(value)]
    found += [f"key {key!r} twice" for key in doubled_keys(text)]
    if isinstance(schema, Schema) and schema.adapter is not None:
        try:
            schema.adapter.validate_json(text)
        except ValidationError as error:
            found.append(f"pydantic: {error}"[:200])
    return found


if __name__ == "__main__":
    main()
