"""What copied drafts save on recorded steps: each is decoded in `ar` once, and drafts are replayed over what it wrote.

    python scripts/measure_copies.py EPISODES.jsonl.gz ... --checkpoint smollm2 --steps 30 --json OUT

Exact modes write the tokens of `ar`, so passes, rows and acceptance of `lookup_spec` follow from these tokens and the
schema, for any options, without the model. Counts only, so the machine does not matter. `--outputs` lets drafts be
copied from the earlier outputs of the same episode, too.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.progress import track

from trimode.engine.decoding.gate import Gate
from trimode.engine.decoding.lookup import TextIndex, copy_draft
from trimode.engine.decoding.speculation import agreement
from trimode.engine.options import LookupSpecOptions
from trimode.engine.request import DecodeRequest
from trimode.engine.result import DecodeResult
from trimode.integrations.bench.episodes import read_episodes
from trimode.integrations.bench.evaluate import Plan, question
from trimode.policy.calls.engine import Engine
from trimode.policy.calls.recent_outputs import RecentOutputs, Runs
from trimode.policy.selection.settings import Settings, options_of, variant

STRUCTURED = ("tool_call", "json")
PROMPT_TOKENS = 600


@dataclass(slots=True)
class Row:
    """Counts of one source, step kind and variant; passes after the prompt's, rows of all passes."""

    source: str
    kind: str
    variant: str
    steps: int = 0
    tokens: int = 0
    ar_passes: int = 0
    passes: int = 0
    rows: int = 0
    drafts: int = 0
    copied: int = 0
    accepted: int = 0

    def add(self, written: DecodeResult, counts: Counter[str]) -> None:
        self.steps += 1
        self.tokens += len(written.token_ids)
        self.ar_passes += written.stats.forward_passes
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + count)


@dataclass(frozen=True, slots=True)
class Written:
    """A step's request and what `ar` wrote. `outputs`: of the episode's earlier steps."""

    source: str
    kind: str
    request: DecodeRequest
    result: DecodeResult
    outputs: Runs


def main() -> None:
    args = arguments()
    engine = Engine.load(args.checkpoint)
    steps = [one for path in args.files for one in written(engine, path, args)]
    rows = [row for text in args.variants for row in replayed_all(engine, steps, text)]
    print(json.dumps([asdict(row) for row in rows], indent=1))
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--steps", type=int, default=30, help="of tool_call and json a file; of others a third of it")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--variants", nargs="+", default=["lookup_spec"], help="lookup_spec:BLOCK_LENGTH:MIN_MATCH")
    parser.add_argument("--outputs", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def written(engine: Engine, path: Path, args: argparse.Namespace) -> Iterator[Written]:
    """Decodes the first steps of each kind in `ar`; refused schemas and steps that do not fit are left out."""
    plan = Plan(
        modes=("ar",),
        settings=Settings(max_tokens=args.max_tokens, temperature=args.temperature),
        prompt_tokens=PROMPT_TOKENS,
    )
    source, taken = path.name.partition(".")[0], Counter[str]()
    for episode in track(list(islice(read_episodes(path), 200)), source):
        outputs = RecentOutputs()
        for step in episode.steps():
            wanted = args.steps if step.kind in STRUCTURED else args.steps // 3
            if step.kind == "choice" or taken[step.kind] >= wanted:
                continue
            call = question(engine, episode, step, plan)
            if isinstance(call, str):
                continue
            request: Any = engine.translator.request(call)
            result = engine.tokens.decode(request)
            yield Written(source, step.kind, engine.translator.request(call), result, outputs.runs * args.outputs)  # type: ignore[arg-type]
            outputs.add(result.token_ids)
            taken[step.kind] += 1
        if all(taken[kind] >= args.steps for kind in STRUCTURED):
            return


def replayed_all(engine: Engine, steps: list[Written], text: str) -> list[Row]:
    settings = variant(text, "--variants")
    options: Any = options_of("lookup_spec", settings)
    rows = dict[tuple[str, str], Row]()
    for step in steps:
        row = rows.setdefault((step.source, step.kind), Row(step.source, step.kind, text))
        row.add(step.result, replayed(engine, step, options))
    return list(rows.values())


def replayed(engine: Engine, step: Written, options: LookupSpecOptions) -> Counter[str]:
    """Counts the rounds of `lookup_spec` in which the tokens of `ar` come about."""
    request, ids, config = step.request, step.result.token_ids, engine.tokens.model.config
    rule = None if request.constraint is None else request.constraint.fork()
    gate = Gate(rule, config.eos_token_ids, None, -(-config.vocab_size // 32), request.max_tokens)
    index, at, counts = TextIndex((*step.outputs, request.prompt), options.min_match), 0, Counter(passes=-1)
    while at < len(ids):
        forced = gate.take_forced(len(ids) - at)
        index.extend(forced)
        at += len(forced)
        if at == len(ids):
            break
        draft = copy_draft(index, gate, min(options.block_length, request.max_tokens - at) - 1)
        accepted = agreement(draft.tokens, ids[at:])
        counts["passes"] += 1
        counts["rows"] += 1 + len(forced) + len(draft.to_verify)
        counts["drafts"] += bool(draft.tokens)
        counts["copied"] += draft.origins.count("a")
        counts["accepted"] += draft.origins[:accepted].count("a")
        gate = draft.gates[min(accepted, len(draft.gates) - 1)].fork()
        new = ids[at : at + accepted + 1]
        _move(gate, new[accepted:])
        index.extend(new)
        at += len(new)
    return counts


def _move(gate: Gate, new: tuple[int, ...]) -> None:
    """Moves the gate past the token that follows the accepted ones, if the text goes on after it."""
    for token in new:
        if token not in gate.ends:
            if gate.forced() is None:
                gate.resolve(token)
            gate.advance([token])


if __name__ == "__main__":
    main()
