"""What grammars cost with a large vocabulary: compiling, one mask, and the k + 1 masks of a draft in one call.

    pip download --no-deps mistral-common
    python scripts/measure_grammar.py SCHEMAS.jsonl.gz --tekken mistral_common-*.whl --json OUT

The vocabulary is a Tekken file (131,072 tokens) from a wheel of mistral-common, read and not installed. Each schema is
compiled `--repeat` times anew, then walked along the first of its valid test data, with a mask at every token. All
times are CPU time of the process; nothing else runs in it. `draft`: masks for `--draft` tokens and the one after them
in one call of llguidance on one thread.
"""

from __future__ import annotations

import argparse
import base64
import json
import platform
import time
import zipfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import llguidance.numpy as bitmask
import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from rich.progress import track

from trimode.integrations.cli.schema_check import entries
from trimode.policy.errors import SchemaError, SchemaViolation
from trimode.policy.grammar.compiler import GrammarCompiler
from trimode.policy.json_schema.serialize import texts_of
from trimode.policy.schema.targets import Target, schema_of

TEKKEN = "mistral_common/data/tekken_240911.json"
Json = Any


@dataclass
class Times:
    """CPU seconds."""

    compile: list[float] = field(default_factory=list)
    mask: list[float] = field(default_factory=list)
    draft: list[float] = field(default_factory=list)
    refused: int = 0


def main() -> None:
    args = arguments()
    began = time.process_time()
    tokenizer, vocabulary = tekken(args.tekken)
    built = time.process_time() - began
    compiler = GrammarCompiler(tokenizer, vocabulary, [tokenizer.eos_token])
    times = Times()
    for path in args.files:
        for _, entry in track(list(entries(path)), path.name):
            measure(entry, compiler, tokenizer, args, times)
    report = {
        "vocabulary": vocabulary,
        "tokenizer": f"{args.tekken.name}: {TEKKEN}",
        "tokenizer_build_s": round(built, 2),
        "schemas": len(times.compile) // args.repeat + times.refused,
        "refused": times.refused,
        "compile_ms": percentiles(times.compile, 1e3, (50, 99, 100)),
        "mask_us": percentiles(times.mask, 1e6, (50, 99, 99.9, 100)),
        "draft": args.draft,
        "draft_masks_us": percentiles(times.draft, 1e6, (50, 99)),
        "masks": len(times.mask),
        "drafts": len(times.draft),
        "versions": {"python": platform.python_version(), "llguidance": version("llguidance")},
        "machine": platform.machine(),
    }
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--tekken", type=Path, required=True, help="a wheel of mistral-common")
    parser.add_argument("--repeat", type=int, default=3, help="compilations of each schema")
    parser.add_argument("--draft", type=int, default=32)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def tekken(wheel: Path) -> tuple[LLTokenizer, int]:
    """The tokenizer of a Tekken file and its number of tokens; the special ones come first."""
    with zipfile.ZipFile(wheel) as file:
        read = json.loads(file.read(TEKKEN))
    size, special = read["config"]["default_vocab_size"], read["config"]["default_num_special_tokens"]
    names = ("<unk>", "<s>", "</s>")
    markers = {names[rank] if rank < len(names) else f"<SPECIAL_{rank}>": rank for rank in range(special)}
    ranks = {base64.b64decode(one["token_bytes"]): one["rank"] + special for one in read["vocab"][: size - special]}
    made: Any = LLTokenizer
    tokenizer: LLTokenizer = made.from_tiktoken(
        encoder=ranks,
        special_tokens=markers,
        pattern=read["config"]["pattern"],
        eos_token=markers["</s>"],
        n_vocab=size,
        slices=None,
    )
    return tokenizer, size


def measure(
    entry: dict[str, Json], compiler: GrammarCompiler, tokenizer: LLTokenizer, args: argparse.Namespace, times: Times
) -> None:
    """One schema: compiled anew, and walked along the first of its data that jsonschema takes."""
    try:
        schema = schema_of(entry["schema"])
        compiled = compiler.compile(schema)
    except SchemaError:
        times.refused += 1
        return
    for _ in range(args.repeat):
        began = time.process_time()
        compiled = compiler.compile(schema)
        times.compile.append(time.process_time() - began)
    for test in entry.get("tests") or ():
        text = next(texts_of(test["data"], compiled.document))
        if valid(schema, text):
            walk(compiled.start.raw.engine, tokenizer, text, args.draft, times)
            return


def valid(schema: Target, text: str) -> bool:
    try:
        schema.parse(text)
    except SchemaViolation:
        return False
    return True


def walk(matcher: LLMatcher, tokenizer: LLTokenizer, text: str, draft: int, times: Times) -> None:
    """A mask before each token, as long as the text's own tokens are those of the grammar; then an allowed one."""
    ids = tokenizer.tokenize_str(text)
    rows = bitmask.allocate_token_bitmask(draft + 1, tokenizer.vocab_size)
    executor, dice, strayed = LLExecutor(num_threads=1), Random(0), False
    for at, token in enumerate(ids):
        began = time.process_time()
        bitmask.fill_next_token_bitmask(matcher, rows, 0)
        times.mask.append(time.process_time() - began)
        if matcher.is_stopped():
            return
        allowed = np.flatnonzero(np.unpackbits(rows[0].view(np.uint8), bitorder="little"))
        if not strayed and at % 8 == 0 and matcher.validate_tokens(ids[at : at + draft]) == draft:
            began = time.process_time()
            job = [(matcher, 0, ids[at : at + draft])]
            bitmask.fill_next_token_bitmask_par_with_draft_tokens(executor, job, rows)
            times.draft.append(time.process_time() - began)
        strayed = strayed or token not in allowed
        matcher.consume_token(int(dice.choice(allowed)) if strayed else token)
        if matcher.is_error():
            return


def percentiles(values: list[float], scale: float, which: tuple[float, ...]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(values, p)) * scale, 2) for p in which}


if __name__ == "__main__":
    main()
