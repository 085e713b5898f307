"""`trimode demo`: an agent loop on recorded episodes, watched live.

Knows the public surface (`step`, `session`) and rich. The model writes every plan, tool call, report and reply after
its own earlier words; user turns and tool results come from the record. Every call goes into an audit file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, get_args

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trimode.engine.result import Mode
from trimode.policy.calls import Engine, Result
from trimode.policy.schema import ToolCall
from trimode.policy.steps import Session, Step, ask, session, step

from ..bench.episodes import Episode, Message, read_episodes

DATA: Final = files("trimode.integrations.cli") / "data"
MAX_TOKENS: Final = 128
WINDOW: Final = 20
"""Messages of history that a step sees; the reference checkpoint's context is short."""


def play(engine: Engine, console: Console, audit: Path, limit: int) -> Session:
    """Runs the loop over the shipped episodes and prints it as it happens."""
    policy = _policy(engine, console)
    with session(engine, policy=policy, trace=f"file:{audit}", content=True) as current:
        for episode in episodes(limit):
            with Live(console=console, refresh_per_second=8, vertical_overflow="visible") as live:
                view = _timeline(episode)
                for cells in loop(episode):
                    view.add_row(*cells)
                    live.update(view)
            if not console.is_terminal:  # rich leaves the last line open there
                console.line()
    return current


def _policy(engine: Engine, console: Console) -> Path:
    """The table that shows every mode; for weights that lack some of them, one that takes what they have."""
    modes = engine.tokens.model.config.family.modes
    if set(modes) >= set(get_args(Mode)):
        return Path(str(DATA / "demo.toml"))
    console.print(f"These weights decode in {', '.join(modes)} only: so does every step.", highlight=False)
    return Path(str(DATA / f"demo_{modes[0]}.toml"))


def episodes(limit: int) -> list[Episode]:
    return list(read_episodes(Path(str(DATA / "episodes.jsonl.gz"))))[:limit]


def loop(episode: Episode) -> Iterator[tuple[str | Text, ...]]:
    """One episode: inputs as recorded, every model step written anew. Yields the cells of the timeline."""
    write = writer(episode)
    history: list[Message] = []
    for message in episode.messages:
        if "kind" not in message:
            history.append(message)
            yield (Text(message["role"], style="dim"), "", "", "", "", Text(_short(message["content"]), style="dim"))
            continue
        result = write(message, history[-WINDOW:])
        history.append({**message, "content": result.text})
        yield _cells(message["kind"], result)


def writer(episode: Episode) -> Callable[[Message, Sequence[Message]], Result]:
    """The agent's four step functions, and the choice among them by the recorded kind of step."""

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


def _timeline(episode: Episode) -> Table:
    view = Table(title=f"{episode.id}  ({episode.source})", title_justify="left", expand=True)
    for name, justify in (("step", "left"), ("mode", "left"), ("tokens", "right"), ("passes", "right")):
        view.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True)
    view.add_column("acc/rej", justify="right", no_wrap=True)
    view.add_column("text", ratio=1, no_wrap=True, overflow="ellipsis")
    return view


def _cells(kind: str, result: Result) -> tuple[str | Text, ...]:
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
    """Totals by step kind and mode."""
    view = Table(title="by step kind", title_justify="left")
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
        held = key[0] in ("tool_call", "json")
        cut = sum(result.finish_reason == "length" for result in chosen) if held else 0
        valid = f"{sum(result.valid is True for result in chosen)}/{len(chosen)}" if held else ""
        valid += f", {cut} cut" if cut else ""
        ratio = f"{tokens / passes:.2f}" if passes else ""
        view.add_row(*key, *map(str, (len(chosen), tokens, passes, ratio, accepted, rejected, forced, valid)))
    return view


def _short(text: str) -> str:
    return " ".join(text.split())
