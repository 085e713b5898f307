"""Broken schemas by the ten thousand: is anything but a typed refusal raised, and how long does the longest take?

    python scripts/fuzz_schemas.py SCHEMAS.jsonl.gz --mutants 50000 --json OUT

Each mutant is a given schema with one to four of its parts changed (values of other types at keywords, deep nesting,
long lists, circles of references, broken patterns, numbers beyond all bounds, half surrogates, keys that are no text),
or made up from keywords alone. Counted: schemas taken and refused by kind, errors outside the tree (with the mutant),
CPU time of the whole process while one is read (what a busy machine does not change), and of compiling that goes on in
a thread after its schema was refused.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from rich.progress import track

from trimode.integrations.cli.schema_check import entries
from trimode.policy.errors import SchemaError
from trimode.policy.grammar.compiler import check
from trimode.policy.schema.targets import schema_of
from trimode.policy.watchdog import abandoned_work

Json = Any
KEYWORDS = (
    "$ref", "$defs", "$schema", "$id", "$anchor", "$dynamicRef", "type", "enum", "const", "properties", "required",
    "items", "prefixItems", "additionalProperties", "patternProperties", "propertyNames", "minProperties",
    "maxProperties", "dependencies", "dependentRequired", "dependentSchemas", "oneOf", "anyOf", "allOf", "not", "if",
    "then", "else", "format", "pattern", "minLength", "maxLength", "minimum", "exclusiveMaximum", "multipleOf",
    "minItems", "maxItems", "uniqueItems", "contains", "x-guidance", "default", "definitions", "unevaluatedProperties",
)  # fmt: skip
SCALARS: tuple[Json, ...] = (
    None, True, False, 0, -1, 1, 3, 1.5, -0.0, 1e308, 5e-324, 10**30, -(2**63) - 1, math.nan, math.inf, "", "a", "#",
    "#/", "#/$defs/a", "#/properties", "#/%zz", "http://json-schema.org/draft-04/schema#", "https://example.com/x",
    "integer", "object", "array", "string", "date", "a\0b", "\ud800", "(", "(?=a)b", "(a*)*b", "[", "^\\d{1,999}$",
    "\\p{L}", (1,), b"x", {1}, ["a"], ["a", "a"], [], {}, {"type": "integer"}, {"$ref": "#"}, {1: 2},
)  # fmt: skip
PATIENCE = 60.0
"""Seconds of waiting for what is left behind of one mutant; what takes longer is reported and left."""
TEXTS = ("", "b" * 200, "\u2028", "\U0001f600", "a/b~c", "__proto__", "\ud83d")


def main() -> None:
    args = arguments()
    schemas = [entry["schema"] for path in args.files for _, entry in entries(path)]
    report = run(schemas, args.mutants, args.seed)
    print(json.dumps({key: value for key, value in report.items() if key != "slowest"}, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--mutants", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def run(schemas: list[Json], mutants: int, seed: int) -> dict[str, Any]:
    """Reads `mutants` of them. Times are CPU milliseconds."""
    verdicts, outside, endless = Counter[str](), list[str](), list[str]()
    times, behind, slowest = list[float](), list[float](), list[tuple[float, str, str]]()
    gc.freeze()  # what the imports made is no part of what one schema costs
    for mutant in track(list(range(mutants)), "mutants"):
        document = mutated(schemas, Random(f"{seed}:{mutant}"))
        began = time.process_time()
        try:
            check(schema_of(document))
            verdict = "taken"
        except SchemaError as error:
            verdict = type(error).__name__
        except BaseException as error:
            verdict = "outside the tree"
            outside.append(f"{type(error).__name__}: {error} of {document!r}"[:2000])
        times.append(1000 * (time.process_time() - began))
        verdicts[verdict] += 1
        behind.append(_finish())
        endless += [f"{seed}:{mutant}"] * bool(abandoned_work())
        slowest = sorted([*slowest, (times[-1], verdict, f"{seed}:{mutant}")], reverse=True)[:10]
    return {
        "mutants": mutants,
        "seed": seed,
        "versions": {"python": platform.python_version(), "llguidance": version("llguidance")},
        "verdicts": dict(verdicts.most_common()),
        "outside": outside,
        "endless": endless,
        "cpu_ms": {f"p{p}": round(float(np.percentile(times, p)), 2) for p in (50, 99, 99.9, 100)},
        "left_behind": {"threads": sum(one > 0 for one in behind), "cpu_s_max": round(max(behind, default=0.0), 2)},
        "over_200_ms": sum(one > 200 for one in times),
        "over_1_s": sum(one > 1000 for one in times),
        "slowest": [{"cpu_ms": round(ms, 1), "verdict": verdict, "mutant": name} for ms, verdict, name in slowest],
    }


def _finish() -> float:
    """Waits for compiling that goes on after its refusal; its CPU seconds."""
    began = time.process_time()
    left = abandoned_work()
    for work in left:
        work.over.wait(PATIENCE)
    return time.process_time() - began if left else 0.0


def mutated(schemas: list[Json], dice: Random) -> Json:
    """A given schema with some parts changed, or a made-up one."""
    if dice.random() < 0.2:
        return made_up(dice, 4)
    document = copy.deepcopy(dice.choice(schemas))
    for _ in range(dice.randint(1, 4)):
        places = list(parts(document))
        if not places:
            break
        holder, key = dice.choice(places)
        dice.choice(CHANGES)(holder, key, document, dice)
    return document


def parts(document: Json) -> Iterator[tuple[Any, Any]]:
    """Every place of a document: what holds it, and its key or index."""
    stack, seen = [document], set[int]()
    while stack:
        part = stack.pop()
        if not isinstance(part, dict | list) or id(part) in seen:
            continue
        seen.add(id(part))
        for key, child in part.items() if isinstance(part, dict) else enumerate(part):
            yield part, key
            stack.append(child)


def made_up(dice: Random, depth: int) -> Json:
    """A schema of random keywords, each with what it may hold or something else."""
    if depth == 0 or dice.random() < 0.15:
        return scalar(dice)
    made: dict[str, Json] = {}
    for key in dice.sample(KEYWORDS, dice.randint(1, 4)):
        shapes: list[Callable[[], Json]] = [
            lambda: made_up(dice, depth - 1),
            lambda: [made_up(dice, depth - 1) for _ in range(dice.randint(0, 3))],
            lambda: {dice.choice("ab"): made_up(dice, depth - 1)},
            lambda: scalar(dice),
        ]
        made[key] = dice.choice(shapes)()
    return made


def scalar(dice: Random) -> Json:
    """One that later changes may change, too, without changing what the next mutants are made of."""
    return copy.deepcopy(dice.choice(SCALARS))


def _other_value(holder: Any, key: Any, _: Json, dice: Random) -> None:
    holder[key] = scalar(dice)


def _other_text(holder: Any, key: Any, _: Json, dice: Random) -> None:
    holder[key] = dice.choice(TEXTS)


def _without(holder: Any, key: Any, _: Json, __: Random) -> None:
    del holder[key]


def _other_key(holder: Any, key: Any, _: Json, dice: Random) -> None:
    if isinstance(holder, dict):
        holder[dice.choice((*KEYWORDS, *TEXTS, 1, None))] = holder.pop(key)


def _more(holder: Any, _: Any, __: Json, dice: Random) -> None:
    if isinstance(holder, dict):
        holder[dice.choice(KEYWORDS)] = made_up(dice, 2)
    else:
        holder.append(made_up(dice, 2))


def _nested(holder: Any, key: Any, _: Json, dice: Random) -> None:
    word = dice.choice(("items", "not", "additionalProperties", "anyOf", "x"))
    for _ in range(dice.choice((3, 30, 300))):
        holder[key] = {word: [holder[key]] if word == "anyOf" else holder[key]}


def _long(holder: Any, key: Any, _: Json, dice: Random) -> None:
    count = dice.choice((50, 2000, 20_000))
    many: list[Callable[[], Json]] = [
        lambda: {"enum": [f"{dice.random()}" for _ in range(count)]},
        lambda: {"properties": {f"p{n}": copy.copy(holder[key]) for n in range(count // 10)}},
        lambda: {"required": [f"p{n}" for n in range(count)]},
        lambda: {"pattern": dice.choice("ab.[") * count},
        lambda: {"allOf": [{"minLength": n} for n in range(count // 10)]},
        lambda: {"oneOf": [{"const": n} for n in range(count // 50)]},
        lambda: {"prefixItems": [copy.copy(holder[key])] * (count // 10)},
    ]
    holder[key] = dice.choice(many)()


def _circle(holder: Any, key: Any, document: Json, dice: Random) -> None:
    others = [other for other, _ in parts(document)]
    holder[key] = dice.choice(({"$ref": "#"}, {"$ref": f"#/{key}"}, {"allOf": [{"$ref": "#"}]}, dice.choice(others)))


def _swapped(holder: Any, key: Any, document: Json, dice: Random) -> None:
    other, there = dice.choice(list(parts(document)))
    holder[key] = other[there]  # shared, or a circle


CHANGES: tuple[Callable[[Any, Any, Json, Random], None], ...] = (
    _other_value, _other_value, _other_value, _other_text, _without, _other_key, _more, _more, _nested, _long, _circle,
    _swapped,
)  # fmt: skip

if __name__ == "__main__":
    main()
