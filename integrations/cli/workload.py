"""`trimode workload LOG...` and `trimode workload check POLICY LOG...`: what a recorded workload would gain elsewhere.

Knows typer and `integrations/workload`. Does not know how anything is measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from typer.core import TyperGroup

from trimode.engine.errors import TrimodeError

from .console import AsJson, Checkpoint, console

if TYPE_CHECKING:
    from ..workload.answering.targets import RunName, Target
    from ..workload.study import Advance

Logs = Annotated[
    list[Path],
    typer.Argument(
        help="Audit files, lines of {request, response}, spans (OTLP JSON, Phoenix, MLflow), episodes.",
        exists=True,
        dir_okay=False,
    ),
]
Runs = Annotated[
    list[str],
    typer.Option("--run", help="local:MODE, recorded, or NAME=URL:KIND; may be repeated. Nothing else is asked."),
]
StoreFile = Annotated[
    Path | None, typer.Option("--store", help="Keep results here, and go on from those that are there.")
]
PriceFile = Annotated[Path | None, typer.Option("--prices", help="A price table, TOML.", exists=True, dir_okay=False)]
Concurrency = Annotated[int, typer.Option(min=1, max=256, help="Calls at the same time.")]
KeyVariable = Annotated[str | None, typer.Option(help="Environment variable with the key of remote engines.")]
Lenient = Annotated[bool, typer.Option("--lenient", help="Count lines that cannot be read, instead of stopping.")]


class _Default(TyperGroup):
    """A group whose command `run` needs no name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


workload_app: typer.Typer = typer.Typer(
    cls=_Default,
    no_args_is_help=True,
    help="What a recorded workload would gain: `workload LOG --run local:ar ...` measures, `workload check` checks.",
)


@workload_app.command("run")
def run(
    logs: Logs,
    runs: Runs,
    quality: Annotated[
        list[str] | None, typer.Option(help="Least agreement of a group, 0 to 1, or KIND=NUMBER; 0.9 if not given.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="What decides: seconds or cost; cost where all has a price.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="The run that gains are counted against; the recorded one if it has times.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Calls of each group that are measured, at most.")] = 80,
    held_out: Annotated[float, typer.Option(min=0, max=0.9, help="Share of loops kept for checking.")] = 0.4,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    concurrency: Concurrency = 1,
    prices: PriceFile = None,
    store: StoreFile = None,
    policy: Annotated[Path | None, typer.Option("--policy", "-o", help="Write the policy file here.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write a page with plots here; it needs no network.")] = None,
    check: Annotated[bool, typer.Option(help="Run held-out calls too.")] = True,
    lenient: Lenient = False,
    api_key_env: KeyVariable = None,
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Runs a sample of recorded calls under engines and modes: agreement, validity, latency, cost; a policy file."""
    from ..workload.answering.targets import RECORDED, runs_named
    from ..workload.logs.reading import read_logs
    from ..workload.quality import quality_of
    from ..workload.refusals import RunRefused
    from ..workload.route_file import routes_text
    from ..workload.sampling import Draw
    from ..workload.scoring.prices import Prices, read_prices
    from ..workload.show import page as pages
    from ..workload.show import tables
    from ..workload.show.as_json import study_json
    from ..workload.study import Plan, studied

    named = runs_named(runs)
    if baseline is not None and baseline not in (known := [one.name for one in named]):
        raise RunRefused(f"--baseline {baseline}: expected one of the runs: {', '.join(known)}")
    if by not in (None, "seconds", "cost"):
        raise RunRefused(f"--by {by}: expected seconds or cost")
    _check_folders(policy, page, store)
    plan = Plan(
        draw=Draw(most=sample, held_out=held_out, seed=seed),
        quality=quality_of(quality or []),
        prices=read_prices(prices) if prices else Prices(),
        by=by,  # type: ignore[arg-type]
        baseline=baseline,
        concurrency=concurrency,
        check=check and held_out > 0,
    )
    log = read_logs(logs, lenient)
    recorded = any(one.name == RECORDED for one in named)
    with targets_of(named, checkpoint, api_key_env) as targets, _store(store) as kept, _bars() as advance:
        study = studied(log, targets, recorded, plan, kept, advance)
    if policy:
        policy.write_text(routes_text(study, targets), encoding="utf-8")
    if page:
        page.write_text(pages.render(study), encoding="utf-8")
    if as_json:
        print(json.dumps(study_json(study), ensure_ascii=False))
        return
    console.print(tables.measures_table(study))
    console.print(tables.decisions_table(study))
    if study.checks:
        console.print(tables.checks_table(study.checks))
    for sentence in tables.sentences(study):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    for path in filter(None, (policy, page)):
        console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)


@workload_app.command("check")
def check(
    policy: Annotated[Path, typer.Argument(help="A policy file of `trimode workload`.", exists=True, dir_okay=False)],
    logs: Logs,
    runs: Annotated[
        list[str] | None, typer.Option("--run", help="Remote engines that the file names: NAME=URL:KIND.")
    ] = None,
    concurrency: Concurrency = 1,
    prices: PriceFile = None,
    store: StoreFile = None,
    lenient: Lenient = False,
    api_key_env: KeyVariable = None,
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Replays a policy file on held-out calls: promised beside measured; exit code 1 where a promise is broken."""
    from ..workload.answering.targets import LOCAL, RECORDED, runs_named
    from ..workload.groups import grouped
    from ..workload.logs.reading import read_logs
    from ..workload.refusals import RunRefused
    from ..workload.route_file import read_routes
    from ..workload.sampling import drawn
    from ..workload.scoring.prices import Prices, read_prices
    from ..workload.show import tables
    from ..workload.show.as_json import checked_json
    from ..workload.study import Plan
    from ..workload.study import check as checked_on

    routes = read_routes(policy)
    given = {one.name: one for one in (runs_named(runs) if runs else [])}
    others = [name for name in routes.runs if name not in (RECORDED, *given)]
    if away := [name for name in others if not name.startswith(f"{LOCAL}:")]:
        raise RunRefused(f"{policy}: {away[0]} is not here; say where it is: --run {away[0].split(':')[0]}=URL:KIND")
    named = [*(runs_named(others) if others else []), *given.values()]
    plan = Plan(draw=routes.draw, prices=read_prices(prices) if prices else Prices(), concurrency=concurrency)
    sample = drawn(grouped(read_logs(logs, lenient).calls), routes.draw)
    with targets_of(named, checkpoint, api_key_env) as targets, _store(store) as kept, _bars() as advance:
        checks = checked_on(sample, routes.promises, targets, plan, kept, advance, routes.level)
    if as_json:
        print(json.dumps([checked_json(one) for one in checks], ensure_ascii=False))
    else:
        console.print(tables.checks_table(checks))
    if any(one.verdict == "broken" for one in checks):
        raise typer.Exit(1)


@contextmanager
def targets_of(
    named: Sequence[RunName], checkpoint: str | None, api_key_env: str | None = None
) -> Generator[list[Target]]:
    """Yields the targets of runs; each engine is loaded, or asked what it is, once. Connections to servers end with the
    block. Raises TrimodeError."""
    from trimode.policy.calls import Engine

    from ..workload.answering.local import LocalTarget
    from ..workload.answering.remote import RemoteTarget
    from ..workload.answering.targets import LOCAL, RECORDED

    engines: dict[str, Engine] = {}
    found: list[Target] = []
    with ExitStack() as until_end:
        for one in named:
            if one.engine == RECORDED:
                continue
            local = one.engine == LOCAL
            if one.engine not in engines and local:
                engines[one.engine] = Engine.load(checkpoint)
            elif one.engine not in engines:
                there = Engine.remote(one.url, one.kind, api_key_env=api_key_env)
                engines[one.engine] = until_end.enter_context(there)
            engine = engines[one.engine]
            found.append(LocalTarget(engine, one.mode) if local else RemoteTarget(engine, one))
        yield found


@contextmanager
def _store(path: Path | None) -> Generator[Any]:
    from ..workload.readings import Store

    with Store(path) as store:
        if store.torn:
            console.print(f"{path}: a torn last line was cut off; its call is measured again", highlight=False)
        yield store


@contextmanager
def _bars() -> Generator[Advance]:
    with Progress(console=Console(stderr=True), transient=True) as bar:

        def begin(title: str, total: int) -> Callable[[], object]:
            return partial(bar.advance, bar.add_task(title, total=total))

        yield begin


def _check_folders(*paths: Path | None) -> None:
    """Raises TrimodeError where a file could not be written after everything was measured."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise TrimodeError(f"{path}: there is no directory {path.parent}")
