"""`trimode demo`: an agent loop on recorded episodes, watched live.

Knows the public API (`step`, `session`, `execute`) and rich. Does not know modes. The model writes every plan, tool
call, report and reply after its own earlier output; user turns, the order of steps and, unless the demo is live, tool
results come from the record. Every call is audited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, Final, get_args

from rich.box import SIMPLE
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trimode.engine.errors import TrimodeError
from trimode.engine.result import Mode
from trimode.policy.calls import Engine, Result
from trimode.policy.json_schema import canonical
from trimode.policy.schema import ToolCall
from trimode.policy.selection import Policy, Settings
from trimode.policy.steps import Session, Step, ask, execute, session, step

from ..bench.episodes import Episode, Message, read_episodes
from .console import Output
from .demo_tools import LIVE_TOOLS

DATA: Final = files("trimode.integrations.cli") / "data"
Cells = tuple[str | Text, ...]
MAX_TOKENS: Final = 128
WIDE: Final = 100
"""Columns from which the timeline shows passes and drafts beside the text."""
WINDOW: Final = 20
"""Messages of history in a step's prompt, because the reference checkpoint's context is short."""


def policy_for(modes: Sequence[Mode]) -> Policy:
    """Returns the table that shows every mode; for a base with a draft adapter one that drafts structured steps; for
    other weights their first mode for every step."""
    if _has_every(modes):
        return Policy.from_toml(Path(str(DATA / "demo.toml")))
    if {"ar", "linear_spec", "quadratic_spec"} <= set(modes):
        drafted: dict[str, Mode] = {"plan": "ar", "tool_call": "linear_spec", "json": "quadratic_spec", "prose": "ar"}
        return Policy(name="demo-drafts", kinds={kind: Settings(mode=mode) for kind, mode in drafted.items()})
    settings = Settings(mode=modes[0], exact=False if modes[0] == "diffusion" else None)
    return Policy(name=f"demo-{modes[0]}", kinds=dict.fromkeys(("plan", "tool_call", "json", "prose"), settings))


def _has_every(modes: Sequence[Mode]) -> bool:
    return set(modes) >= set(get_args(Mode))


def play(engine: Engine, console: Output, audit: Path, limit: int, live: bool = False) -> Session:
    """Runs the loop over the shipped episodes and prints it as it happens. `live`: only episodes whose tools really
    run."""
    results = "tools really run" if live else "tool results come from the record (--live runs tools)"
    console.print(f"live: the model writes every plan, tool_call, json and prose step now; {results}", highlight=False)
    console.print("recorded: user turns, and the order of steps", highlight=False)
    modes = engine.tokens.model.config.modes
    if not _has_every(modes):
        console.print(f"These weights decode in {', '.join(modes)} only: every step in {modes[0]}.", highlight=False)
    with session(engine, policy=policy_for(modes), trace=f"file:{audit}", content=True) as current:
        for episode in episodes(limit, live):
            _show(episode, loop(episode, live), console)
    return current


def _show(episode: Episode, rows: Iterator[Cells], console: Output) -> None:
    """Prints the rows as they come, or, piped, all of them at once."""
    view = _timeline(episode, console)
    if console.piped:
        for cells in rows:
            view.add_row(*_fitted(cells, view))
        console.print(view)
        return
    with Live(console=console, refresh_per_second=8, vertical_overflow="visible") as shown:
        for cells in rows:
            view.add_row(*_fitted(cells, view))
            shown.update(view)


def episodes(limit: int, live: bool = False) -> list[Episode]:
    """Returns the first shipped episodes; `live`: of those whose tools all run."""
    found = read_episodes(Path(str(DATA / "episodes.jsonl.gz")))
    return list(islice((one for one in found if not live or _runs(one)), limit))


def _runs(episode: Episode) -> bool:
    return {tool["name"] for tool in episode.tools} <= set(LIVE_TOOLS)


def loop(episode: Episode, live: bool = False) -> Iterator[Cells]:
    """Plays one episode: user turns as recorded, every model step decoded again, tool results as recorded or, `live`,
    as the tools return them. Yields the cells of the timeline."""
    write = writer(episode)
    history: list[Message] = []
    call: ToolCall | None = None
    for message in episode.messages:
        if "kind" not in message:
            ran = live and message["role"] == "tool" and call is not None
            heard = {**message, "content": _run(call)} if ran and call is not None else message
            history.append(heard)
            name = f"{message['role']} ({'run now' if ran else 'recorded'})"
            yield (Text(name, style="dim"), "", "", "", "", Text(_short(heard["content"]), style="dim"))
            continue
        result = write(message, history[-WINDOW:])
        call = result.value if message["kind"] == "tool_call" else call
        history.append({**message, "content": result.text})
        yield _cells(message["kind"], result)


def _run(call: ToolCall) -> str:
    """Returns what the model hears of a tool: its result, or its error."""
    try:
        return canonical({"result": execute(call, [*LIVE_TOOLS.values()])})
    except (TrimodeError, ValueError, ArithmeticError) as error:
        return canonical({"error": str(error)})


def writer(episode: Episode) -> Callable[[Message, Sequence[Message]], Result]:
    """Returns a function that runs the agent's step of the recorded kind."""

    @step("plan", tools=episode.tools, max_tokens=MAX_TOKENS)
    def plan(history: Sequence[Message]) -> str:
        return ask(history)

    @step("tool_call", tools=episode.tools, max_tokens=MAX_TOKENS)
    def act(history: Sequence[Message]) -> ToolCall:
        return ask(history)

    @step("prose", tools=episode.tools, max_tokens=MAX_TOKENS)
    def reply(history: Sequence[Message]) -> str:
        return ask(history)

    def write(message: Message, history: Sequence[Message]) -> Result:
        match message["kind"]:
            case "plan":
                return plan.result(history)
            case "tool_call":
                return act.result(history)
            case "prose":
                return reply.result(history)
            case _:
                return _report(message["schema"], episode).result(history)

    return write


def _report(schema: Any, episode: Episode) -> Step[[Sequence[Message]], dict[str, Any]]:
    @step("json", schema=schema, tools=episode.tools, max_tokens=MAX_TOKENS)
    def report(history: Sequence[Message]) -> dict[str, Any]:
        return ask(history)

    return report


def _timeline(episode: Episode, console: Output) -> Table:
    """Returns the table without rows: one line a row. In a narrow terminal its last columns give their place to the
    text."""
    view = Table(title=f"{episode.id}  ({episode.source})", title_justify="left", expand=not console.piped, box=SIMPLE)
    for name in ("step", "mode", "tokens", "passes", "acc/rej")[: 5 if console.width >= WIDE else 3]:
        view.add_column(name, justify="left" if name in ("step", "mode") else "right", no_wrap=True)
    view.add_column("text", ratio=1, no_wrap=True, overflow="ellipsis")
    return view


def _fitted(cells: Cells, view: Table) -> Cells:
    return (*cells[: len(view.columns) - 1], cells[-1])


def _cells(kind: str, result: Result) -> Cells:
    stats = result.stats
    drafts = f"{stats.accepted}/{stats.rejected}" if stats.drafted else ""
    style = "yellow" if result.valid is None and kind in ("tool_call", "json") else "green" if result.valid else ""
    return (
        Text(kind, style="bold"),
        result.plan.mode,
        str(stats.output_tokens),
        str(stats.forward_passes),
        drafts,
        Text(_short(result.text), style=style),
    )


def summary(results: Sequence[tuple[str, Result]]) -> Table:
    """Returns the totals by step kind and mode as a table."""
    view = Table(title="by step kind", title_justify="left", box=None, header_style="bold", pad_edge=False)
    for name in ("step", "mode"):
        view.add_column(name)
    for name in ("calls", "tokens", "passes", "TPF", "acc", "rej", "forced", "valid"):
        view.add_column(name, justify="right")
    for key in sorted({(kind, result.plan.mode) for kind, result in results}):
        chosen = [result for kind, result in results if (kind, result.plan.mode) == key]
        tokens, passes, accepted, rejected, forced = (
            sum(getattr(result.stats, name) for result in chosen)
            for name in ("output_tokens", "forward_passes", "accepted", "rejected", "forced")
        )
        constrained = key[0] in ("tool_call", "json")
        cut = sum(result.finish_reason == "length" for result in chosen) if constrained else 0
        valid = f"{sum(result.valid is True for result in chosen)}/{len(chosen)}" if constrained else ""
        valid += f", {cut} cut" if cut else ""
        ratio = f"{tokens / passes:.2f}" if passes else ""
        view.add_row(*key, *map(str, (len(chosen), tokens, passes, ratio, accepted, rejected, forced, valid)))
    return view


def _short(text: str) -> str:
    return " ".join(text.split())
