"""The command line: `trimode demo | generate | serve | eval | bench | export | fetch | train | audit | mcp | ...`.

Knows typer and what each command prints. Does not know how anything is computed. Commands import what they need when
they run, so that `--help` is quick. Exit codes: 0 done, 1 a check found problems, 2 the command failed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimode.engine.errors import TrimodeError

from ..mcp import command as mcp_commands
from . import audit, audit_out, bench_commands, serve
from .console import Adapter, AsJson, Checkpoint, adapter_of, console
from .doctor import doctor
from .fetch import fetch
from .policy import policy_app
from .train import train_app
from .workload import workload_app

if TYPE_CHECKING:
    from trimode.policy.calls import Result, StreamEvent

app: typer.Typer = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=(__doc__ or "").split("\n")[0]
)
audit_out.add_to(audit.app)
app.add_typer(audit.app, name="audit")
bench_commands.add_to(app)
serve.add_to(app)
mcp_commands.add_to(app)
schema_app: typer.Typer = typer.Typer(no_args_is_help=True, help="Try JSON Schemas against the grammar engine.")
app.add_typer(schema_app, name="schema")
app.add_typer(policy_app, name="policy")
app.add_typer(train_app, name="train")
app.add_typer(workload_app, name="workload")
app.command()(doctor)
app.command()(fetch)


def main() -> None:
    """Runs the app; trimode's own errors and OSErrors are printed as one line."""
    try:
        app()
    except TrimodeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:  # a file that cannot be read or written
        print(f"error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(2) from None


def _version(asked: bool) -> None:
    if asked:
        print(f"trimode {sys.modules['trimode'].__version__}")  # the package above, which is loaded before its parts
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Gives the app its options; `_version` answers this one before a command is asked for."""


@app.command()
def demo(
    file: Annotated[
        Path | None, typer.Option("--audit", help="Where to write the audit file; a temporary file if not given.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="How many of the shipped episodes to play.")] = 4,
    live: Annotated[
        bool, typer.Option("--live", help="Run the tools, too: episodes whose tools are functions.")
    ] = False,
    trace: Annotated[
        list[str] | None, typer.Option(help="Send spans too: phoenix, mlflow, console or a URL; may be repeated.")
    ] = None,
    checkpoint: Checkpoint = None,
) -> None:
    """Plays an agent loop on recorded episodes, each step in its own mode, and verifies the audit file."""
    from trimode.policy.audit import verify
    from trimode.policy.calls import Engine

    from ..tracing import setup
    from . import demo as player
    from .audit_tables import problems_table

    for to in trace or ():
        setup.trace(to)
    path = file or Path(tempfile.mkdtemp(prefix="trimode-")) / "audit.jsonl"
    session = player.play(Engine.load(checkpoint), console, path, episodes, live)
    console.print(player.summary(session.results))
    problems = verify(path)
    console.print(f"audit file: {path} ({len(session.results)} calls)")
    if problems:
        console.print(problems_table(problems))
        raise typer.Exit(1)
    console.print("audit verify: every call adds up (accepted + corrected + forced = output tokens)")


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The prompt; with --chat it becomes a user message.")],
    chat: Annotated[bool, typer.Option(help="Use the chat template.")] = True,
    mode: Annotated[str | None, typer.Option(help="ar, diffusion, linear_spec, quadratic_spec or lookup_spec.")] = None,
    step: Annotated[str | None, typer.Option(help="Kind of step: plan, tool_call, json, prose or choice.")] = None,
    schema: Annotated[Path | None, typer.Option(help="File with a JSON Schema that constrains the output.")] = None,
    formats: Annotated[
        str | None, typer.Option(help="Formats that nobody here can check: annotate notes them, assert refuses.")
    ] = None,
    guarantee: Annotated[
        str | None, typer.Option(help="grammar, or checked: what no grammar holds is checked in the finished output.")
    ] = None,
    retries: Annotated[int | None, typer.Option(help="Attempts after the first, under --guarantee checked.")] = None,
    temperature: float | None = None,
    seed: int | None = None,
    max_tokens: int | None = None,
    stream: Annotated[bool, typer.Option(help="Print text as it becomes final.")] = False,
    checkpoint: Checkpoint = None,
    adapter: Adapter = None,
    as_json: AsJson = False,
) -> None:
    """Decodes one output: its text to stdout, what it cost to stderr.

    What no option says, trimode.toml or [tool.trimode] of the working directory does, as for every other call.
    """
    from trimode.policy.calls import Engine

    words: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}] if chat else None,
        "schema": json_file(schema) if schema else None,
        "formats": formats,
        "guarantee": guarantee,
        "retries": retries,
        "mode": mode,
        "step": step,
        "temperature": temperature,
        "seed": seed,
        "max_tokens": max_tokens,
    }
    engine = Engine.load(checkpoint, adapter=adapter_of(adapter))
    raw = None if chat else prompt
    shown = stream and not as_json
    result = printed(engine.stream(raw, **words)) if shown else engine.generate(raw, **words)
    stats = result.stats
    counts = {
        "mode": result.plan.mode, "reason": result.plan.reason, "finish_reason": result.finish_reason,
        "output_tokens": stats.output_tokens, "forward_passes": stats.forward_passes, "accepted": stats.accepted,
        "corrected": stats.corrected, "forced": stats.forced, "rejected": stats.rejected, "valid": result.valid,
    }  # fmt: skip
    if as_json:
        said = {"text": result.text, "token_ids": result.token_ids, **counts, "notes": result.notes}
        print(json.dumps(said, ensure_ascii=False))
        return
    print("" if shown else result.text, flush=True)
    print("  ".join(f"{name} {value}" for name, value in counts.items()), file=sys.stderr)
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="A directory, new or empty; for gguf a new file, NAME.gguf.")],
    format: Annotated[
        str, typer.Option("--format", help="ministral3, gguf, or transformers (of a GGUF file).")
    ] = "ministral3",
    stored: Annotated[
        str | None,
        typer.Option("--type", help="f32, f16, bf16; of gguf also q8_0, q4_0, q4_1. The weights' own if not given."),
    ] = None,
    checkpoint: Checkpoint = None,
) -> None:
    """Writes a checkpoint for other engines (transformers, vLLM; llama.cpp), and lists what their format cannot
    represent."""
    from trimode.engine.models.checkpoint import locate
    from trimode.engine.models.export import export as write

    missing = write(locate(checkpoint).directory, out, format, stored)
    console.print(f"written: {out} ({format})", highlight=False, soft_wrap=True)
    for sentence in missing:
        console.print(f"not written: {sentence}", highlight=False, soft_wrap=True, markup=False)


@schema_app.callback()
def _schema() -> None:
    """Makes `check` a subcommand, because typer would run a single command without its name."""


@schema_app.command("check")
def check_schemas(
    files: Annotated[
        list[Path],
        typer.Argument(help='{"schema": ..., "tests": [...]}: .json, or one a line.', exists=True, dir_okay=False),
    ],
    formats: Annotated[
        str, typer.Option(help="Unknown formats: annotate leaves out with a note, assert refuses.")
    ] = "annotate",
    rewrites: Annotated[bool, typer.Option(help="Rewrite hard keywords where nothing changes.")] = True,
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Reports which schemas compile, where others are refused, and which test data their grammars accept; exit code 1
    if any schema is refused or any grammar accepts invalid data."""
    from trimode.policy.json_schema import FORMATS

    from . import schema_check as checks

    if formats not in FORMATS:
        raise TrimodeError(f"--formats {formats}: expected one of {', '.join(FORMATS)}")
    checker = checks.Checker.load(checkpoint, formats, rewrites)
    verdicts = [checker.verdict(name, entry) for path in files for name, entry in checks.entries(path)]
    totals = checks.summary(verdicts)
    if as_json:
        print(json.dumps({"files": [verdict.as_dict() for verdict in verdicts], "summary": totals}, ensure_ascii=False))
    else:
        for line in checks.lines(verdicts):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if totals["compiled"] < totals["schemas"] or totals["silently_wrong"]:
        raise typer.Exit(1)


def printed(events: Iterable[StreamEvent]) -> Result:
    """Prints the final pieces of a stream as they come, and returns its result."""
    result = None
    for event in events:
        if not event.provisional:
            print(event.text, end="", flush=True)
        result = event.result
    assert result is not None
    return result


def json_file(path: Path) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise TrimodeError(f"cannot read a JSON Schema from {path}: {error}") from None
    if found is None:
        raise TrimodeError(f"cannot read a JSON Schema from {path}: it holds null")
    return found
