"""The public half of BFCL against our tool schemas: every tool list compiles or is refused by name, and the calls of
the ground truth that fit their tools are what the grammar takes.

    python scripts/check_bfcl.py DIRECTORY --json OUT

A record's ground truth lists the values that each argument may have ("" means that it may be left out). Those listed
first are tried: written as a call in the order of the schema, and walked token by token through the masks of the
record's whole tool list.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

from rich.progress import track

from trimode.integrations.cli.schema_check import Checker
from trimode.policy.errors import SchemaError, SchemaRefused, SchemaViolation
from trimode.policy.json_schema.serialize import texts_of
from trimode.policy.schema.targets import tool_schema

Json = Any


def main() -> None:
    args = arguments()
    checker = Checker.load(args.checkpoint, "strict", True)
    report = {path.name.removesuffix(".jsonl.gz"): one(path, checker) for path in sorted(args.directory.glob("*.gz"))}
    total = Counter[str]()
    for row in report.values():
        total.update({key: value for key, value in row.items() if isinstance(value, int)})
    report["total"] = dict(total)
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    raise SystemExit(1 if total["unnamed_refusals"] + total["valid_calls_refused"] + total["invalid_accepted"] else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="CATEGORY.jsonl.gz files")
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def one(path: Path, checker: Checker) -> dict[str, Json]:
    """Counts of one category; `refused_at`: keywords that tool lists were refused for; `examples`: what went wrong."""
    counts, keywords, examples = Counter[str](), Counter[str](), list[str]()
    with gzip.open(path, "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    for record in track(records, path.name):
        counts["tool_lists"] += 1
        try:
            schema = tool_schema(record["tools"])
            compiled = checker.compiler.compile(schema)
        except SchemaError as error:
            counts["refused"] += 1
            named = isinstance(error, SchemaRefused) and error.keyword
            counts["unnamed_refusals"] += not named
            keywords[str(named or error)[:100]] += 1
            continue
        counts["compiled"] += 1
        for call in calls(record):
            counts["calls"] += 1
            texts = list(dict.fromkeys(texts_of(call, compiled.document)))
            fits = held(schema, texts[0])
            taken = any(checker.walker.refused_at(compiled.start.fork(), text) is None for text in texts)
            counts["valid_calls"] += fits
            counts["valid_calls_accepted"] += fits and taken
            counts["valid_calls_refused"] += fits and not taken
            counts["invalid_accepted"] += taken and not fits
            if fits != taken:
                examples.append(f"{record['id']}: {texts[0][:200]}")
    return {**counts, "refused_at": dict(keywords), "examples": examples[:5]}


def calls(record: dict[str, Json]) -> list[Json]:
    """The ground truth as calls, each argument with the first value listed; left out where "" comes first."""
    return [
        {
            "name": name,
            "arguments": {key: first(values) for key, values in arguments.items() if values and values[0] != ""},
        }
        for truth in record.get("ground_truth") or ()
        for name, arguments in truth.items()
    ]


def given(values: Json) -> bool:
    """Whether an argument is there."""
    return isinstance(values, list) and bool(values) and values[0] != ""


def first(values: Json) -> Json:
    """A listed value; objects list the values of each of their keys again."""
    value = values[0] if isinstance(values, list) else values
    if isinstance(value, dict):
        return {
            key: first(inner) for key, inner in value.items() if isinstance(inner, list) and inner and inner[0] != ""
        }
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [first([item]) for item in value]
    return value


def held(schema: Any, text: str) -> bool:
    try:
        schema.parse(text)
    except SchemaViolation:
        return False
    return True


if __name__ == "__main__":
    main()
