"""`trimode eval` and `trimode bench`: decode recorded episodes, to evaluate the modes and to measure their speed.

Knows typer and `integrations/bench`. Does not know how anything is measured.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from trimode.engine.errors import TrimodeError

from .console import Adapter, Checkpoint, adapter_of, console, run_script

Selection = Annotated[
    str | None, typer.Option(help="Of diffusion: vendor or text_first; the weights' own if not given.")
]
ExactFirst = Annotated[
    bool | None,
    typer.Option(help="Of linear_spec: the drafting pass decides a token, or not; the weights' own if not given."),
]


def add_to(app: typer.Typer) -> None:
    app.command("eval")(evaluate)
    app.command(cls=_Bench)(bench)


def evaluate(
    files: Annotated[list[Path], typer.Argument(help="Episode files, NAME.jsonl.gz.", exists=True, dir_okay=False)],
    registry: Annotated[
        Path | None, typer.Option(help="Registry of tools and schemas; the sibling if not given.")
    ] = None,
    modes: Annotated[
        str, typer.Option(help="Comma-separated modes; `auto` learns the fastest while it runs, starting empty.")
    ] = "ar,diffusion,linear_spec,quadratic_spec",
    limit: Annotated[int | None, typer.Option(min=1, help="Episodes a file.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Also write the rows as JSON here.")] = None,
    temperature: float = 0.0,
    seed: int = 0,
    block_length: int | None = None,
    threshold: float | None = None,
    selection: Selection = None,
    points: Annotated[
        int | None, typer.Option("--rows", help="Acceptance points that quadratic_spec prepares for; all if not given.")
    ] = None,
    exact_first: ExactFirst = None,
    max_tokens: int = 160,
    prompt_tokens: Annotated[int, typer.Option(help="Old turns are left out beyond this length.")] = 608,
    checkpoint: Checkpoint = None,
    adapter: Adapter = None,
) -> None:
    """Decodes every model step of recorded episodes in each mode: TPF, tokens/s, validity, exact match, agreement."""
    from rich.progress import Progress

    from trimode.policy.calls import Engine
    from trimode.policy.selection import Auto, Settings, known_mode

    from ..bench import evaluate as harness

    if out and not out.parent.is_dir():
        raise TrimodeError(f"--json {out}: there is no directory {out.parent}")
    given = [name.strip() for name in modes.split(",")]
    chosen = tuple(name if name == harness.AUTO else known_mode(name, "--modes") for name in given)
    settings = Settings(
        temperature=temperature,
        seed=seed,
        block_length=block_length,
        threshold=threshold,
        rows=points,
        exact_first=exact_first,
        max_tokens=max_tokens,
    ).over(Settings.of({"selection": selection}, "eval"))
    engine = Engine.load(checkpoint, adapter=adapter_of(adapter))
    auto = Auto(engine.cost, modes=engine.tokens.model.config.modes) if harness.AUTO in chosen else None
    plan = harness.Plan(modes=chosen, settings=settings, prompt_tokens=prompt_tokens, auto=auto)
    rows: list[harness.Row] = []
    for path in files:
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(path.name, total=limit)
            found = harness.evaluate(engine, path, registry, limit, plan, partial(bar.advance, task))
        rows += found.rows()
        console.print(harness.table(found.rows(), found.source))
        for reason, count in found.skipped.items():
            console.print(f"not asked: {count} steps ({reason})")
        if out:
            out.write_text(harness.as_json(rows) + "\n", encoding="utf-8")


class _Bench(TyperCommand):
    """The command `bench`, of which `bench gpu ...` runs scripts/bench_gpu.py."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[:1] == ["gpu"]:
            raise typer.Exit(run_script("bench_gpu.py", args[1:]))
        return super().parse_args(ctx, args)


def bench(
    files: Annotated[list[Path], typer.Argument(help="Episode files, NAME.jsonl.gz.", exists=True, dir_okay=False)],
    registry: Annotated[
        Path | None, typer.Option(help="Registry of tools and schemas; the sibling if not given.")
    ] = None,
    peers: Annotated[
        str,
        typer.Option(
            help="Comma-separated peers: hf, hf-lookup, and with the extra `bench` llamacpp, openvino, ort, and "
            "llamacpp-native (a llama-server compiled here, which TRIMODE_LLAMA_SERVER names), each with and without "
            "its n-gram drafts and a schema; empty for none."
        ),
    ] = "hf,hf-lookup",
    modes: Annotated[
        str, typer.Option(help="Comma-separated modes, each as MODE[:BLOCK_LENGTH[:ROWS]].")
    ] = "ar,linear_spec:8,quadratic_spec:6",
    steps: Annotated[int, typer.Option(min=1, help="Steps of each kind, the same ones in every run.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="How often every system decodes every step.")] = 5,
    max_tokens: Annotated[int, typer.Option(min=1, help="Output tokens a step, for peers too.")] = 96,
    block_length: int | None = None,
    threshold: float | None = None,
    selection: Selection = None,
    prompt_tokens: Annotated[int, typer.Option(help="Old turns are left out beyond this length.")] = 608,
    out: Annotated[
        Path | None, typer.Option("--json", help="Also write rows, roofline and conditions as JSON here.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print tables for a document.")] = False,
    checkpoint: Checkpoint = None,
) -> None:
    """Measures our modes against peers on the same weights and steps: seconds, decode tokens/s, ratios, the roofline.

    `bench gpu` measures passes and kernels on a GPU instead (arguments as of scripts/bench_gpu.py).
    """
    from rich.progress import Progress

    from trimode.policy.calls import Engine
    from trimode.policy.selection import Settings

    from ..bench import benchmark as harness
    from ..bench import tables as view
    from ..bench.markdown import in_markdown
    from ..bench.peers import known_peers

    if out and not out.parent.is_dir():
        raise TrimodeError(f"--json {out}: there is no directory {out.parent}")
    plan = harness.Plan(
        modes=tuple(dict.fromkeys(name.strip() for name in modes.split(","))),
        peers=known_peers(peers),
        steps=steps,
        rounds=rounds,
        settings=Settings(block_length=block_length, threshold=threshold, max_tokens=max_tokens).over(
            Settings.of({"selection": selection}, "bench")
        ),
        prompt_tokens=prompt_tokens,
    )
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=None)
        engine = Engine.load(checkpoint)
        begin = partial(bar.reset, task)
        report = harness.bench(engine, files, registry, plan, harness.Bar(begin, partial(bar.advance, task)))
    if markdown:
        print("\n".join(in_markdown(report)))
    else:
        console.print(view.table(report))
    for line in view.lines(report):
        console.print(f"- {line}" if markdown else line, highlight=False, soft_wrap=True, markup=False)
    if out:
        out.write_text(report.as_json() + "\n", encoding="utf-8")
