"""`trimode train adapter` and `trimode train own-text`.

Knows typer, rich and the options' names. Does not know how anything is trained.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from .data.texts import Text
    from .processes import Processes
    from .runs import Report

Base = Annotated[str, typer.Option("--base", help="Directory, GGUF file, `smollm2` or hub id of the base.")]
Data = Annotated[
    list[Path],
    typer.Option("--data", help="Chat or episode .jsonl[.gz], or plain text; repeat.", exists=True, dir_okay=False),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Texts of each file; all if not given.")]
Tokens = Annotated[int, typer.Option("--answer-tokens", min=2, help="Of the base's answers, at most.")]


def add_to(train: typer.Typer) -> None:
    """Adds the commands to `trimode train`."""
    train.command("adapter")(adapter)
    train.command("own-text")(own_text)


def adapter(
    base: Base,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the run and of the adapter; a killed run goes on there.")],
    sample_from_base: Annotated[
        bool, typer.Option("--sample-from-base", help="Let the base answer the texts first, and learn its answers.")
    ] = False,
    answer_tokens: Tokens = 96,
    limit: Limit = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps in all.")] = 2000,
    samples: Annotated[int, typer.Option(min=1, help="Samples of a step.")] = 8,
    drafts: Annotated[int, typer.Option(min=1, help="Drafts of a sample in a step, at most.")] = 24,
    blocks: Annotated[str, typer.Option(help="Lengths of drafts, the token before them counted.")] = "4,6,8",
    rank: Annotated[int, typer.Option(min=1, help="Rank of each term.")] = 32,
    objective: Annotated[str, typer.Option(help="kl, tv or ce.")] = "kl",
    noise: Annotated[str, typer.Option(help="What stands in the slots: mask, random or an id.")] = "mask",
    attention: Annotated[str, typer.Option(help="causal or block.")] = "causal",
    predicts: Annotated[str, typer.Option(help="Of a slot: next or own.")] = "next",
    recorded: Annotated[float, typer.Option(help="Share of drafts in text that is not the base's own.")] = 0.5,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 2e-3,
    decay: Annotated[float, typer.Option(help="Last share of the steps, in which the rate falls.")] = 0.2,
    context: Annotated[int, typer.Option(min=16, help="Tokens of a sample, at most.")] = 1024,
    held_out: Annotated[int, typer.Option(min=1, help="Samples that are measured and not learned.")] = 16,
    measure_every: Annotated[int, typer.Option(min=1, help="Steps between two measurements.")] = 50,
    save_every: Annotated[float, typer.Option(help="Seconds between two savings.")] = 180.0,
    start_from: Annotated[
        Path | None,
        typer.Option(
            help="Adapter whose weights a new run begins with; its ranks may be less.", file_okay=False, exists=True
        ),
    ] = None,
    seed: int = 0,
    dtype: Annotated[str, typer.Option(help="Arithmetic: bfloat16 or float32.")] = "bfloat16",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; cuda if there is one.")] = None,
) -> None:
    """Trains a draft adapter for a base, which stays as it is; several processes: under torchrun.

    Run again with the same options, it goes on where it was.
    """
    import torch

    from trimode.engine.models.checkpoint import locate

    from .errors import TrainingError
    from .folder import OWN_TEXT, Folder
    from .noise import noise_ids
    from .processes import Processes
    from .recipe import Recipe
    from .runs import Run, rendered

    where = torch.device(_device(device))
    processes = Processes.joined(where)
    if sample_from_base:
        if processes.world > 1:
            raise TrainingError("--sample-from-base: one process writes the text; run `trimode train own-text` before")
        _write(base, data, out / OWN_TEXT, limit, answer_tokens, context)
        data, limit = [out / OWN_TEXT], None
    try:
        lengths = tuple(sorted({int(one) for one in blocks.split(",")}))
    except ValueError:
        raise TrainingError(f"--blocks {blocks}: expected lengths with commas, such as 4,6,8") from None
    checkpoint = locate(base)
    model, tokenizer = checkpoint.load(getattr(torch, Recipe.checked_dtype(dtype)), where)
    recipe = Recipe(
        noise=noise_ids(noise, model.config, tokenizer), steps=steps, samples=samples, drafts=drafts, blocks=lengths,
        rank=rank, objective=objective, attention=attention, predicts=predicts, recorded=recorded, rate=rate,
        decay=decay, context=context, held_out=held_out, seed=seed, dtype=dtype,
    )  # fmt: skip
    run = Run(
        base=checkpoint, data=tuple(path.name for path in data), folder=Folder(out), recipe=recipe,
        processes=processes, device=where, start_from=start_from, save_every=save_every, measure_every=measure_every,
    )  # fmt: skip
    found = rendered(_texts(data, limit), tokenizer, model, context)
    with _progress(processes) as bar:
        for note in run.train(model, found, _report(bar, recipe.steps)):
            Console(stderr=True).print(f"note: {note}", highlight=False)
    processes.leave()
    if processes.first:
        print(out)


def own_text(
    base: Base,
    data: Data,
    out: Annotated[Path, typer.Option(help="File to write, .jsonl; what is in it already is kept.")],
    answer_tokens: Tokens = 96,
    limit: Limit = None,
    context: Annotated[int, typer.Option(min=16, help="Tokens of a text, at most.")] = 1024,
) -> None:
    """Lets the base answer recorded texts, greedily, for `trimode train adapter --data`."""
    _write(base, data, out, limit, answer_tokens, context)
    print(out)


def _write(base: str, data: Sequence[Path], out: Path, limit: int | None, tokens: int, context: int) -> None:
    from trimode.policy.calls import Engine

    from .data.own_text import Writer, write_own_text
    from .data.rendering import Renderer

    engine = Engine.load(base)
    config = engine.tokens.model.config
    longest = min(context, config.max_position_embeddings - tokens)
    writer = Writer(engine, Renderer(engine.tokenizer, config, longest), tokens)
    texts = _texts(data, limit)
    out.parent.mkdir(parents=True, exist_ok=True)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("the base answers", total=len(texts))
        write_own_text(writer, texts, out, lambda: bar.advance(task))
    engine.close()


def _texts(data: Sequence[Path], limit: int | None) -> list[Text]:
    from .data.texts import read_texts

    return [text for path in data for text in islice(read_texts(path), limit)]


def _device(given: str | None) -> str:
    import torch

    if given is None:
        given = "cuda" if torch.cuda.is_available() else "cpu"
    if given.startswith("cuda"):
        import os

        from trimode.engine.hardware import device_of

        device_of(given)
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        return f"cuda:{torch.cuda.current_device()}"
    return given


def _progress(processes: Processes) -> Any:
    if not processes.first or not sys.stderr.isatty():
        return nullcontext()
    return Progress(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _report(bar: Progress | None, steps: int) -> Report:
    """Returns what shows each step: a bar on a terminal, else a line where held-out samples were measured."""
    task = None if bar is None else bar.add_task("", total=steps)
    seen: dict[str, Any] = {"seconds": 0.0, "held": "not measured yet"}

    def report(step: Any, held: float | None, seconds: float) -> None:
        took = seconds - seen["seconds"]
        seen["seconds"] = seconds
        if held is not None:
            seen["held"] = f"{held:.2f}"
        words = (
            f"loss {step.loss:.3f}, {step.slots / max(took, 1e-9):,.0f} tokens/s, accepted a draft: "
            f"{step.accepted / max(step.drafts, 1):.2f}, held-out {seen['held']}"
        )
        if bar is not None and task is not None:
            bar.update(task, completed=step.number, description=words)
        elif held is not None:
            print(f"step {step.number} of {steps}: {words}", file=sys.stderr, flush=True)

    return report
