"""`trimode train`: draft adapters, text for them, and the reference checkpoint.

Knows typer and which command trains what. Does not know how anything is trained.
"""

from __future__ import annotations

from typing import Any, Final

import typer
from typer.core import TyperGroup

from ..training import command
from .console import run_script

_AS_GIVEN: Final = {"allow_extra_args": True, "ignore_unknown_options": True}


class _Train(TyperGroup):
    """The commands; options without one are those of `reference`, as in earlier releases."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] != "--help":
            args = ["reference", *args]
        return super().parse_args(ctx, args)


train_app: typer.Typer = typer.Typer(
    cls=_Train, no_args_is_help=True, help="Train draft adapters, or the reference checkpoint."
)
command.add_to(train_app)


@train_app.command("reference", context_settings=_AS_GIVEN, add_help_option=False)
def reference(context: typer.Context) -> None:
    """Trains the reference checkpoint (arguments as of scripts/train.py; needs a source checkout)."""
    raise typer.Exit(run_script("train.py", context.args))
