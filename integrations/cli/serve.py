"""`trimode serve` and `trimode keys`.

Knows typer and the settings' names. Does not know how requests are served.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimode.engine.errors import TrimodeError

if TYPE_CHECKING:
    from ..server.settings import ServerSettings

keys_app: typer.Typer = typer.Typer(no_args_is_help=True, help="API keys of the server.")


def add_to(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.command()(serve)
    app.add_typer(keys_app, name="keys")


def serve(
    model: Annotated[
        str | None, typer.Argument(help="Directory, GGUF file, `smollm2` or hub id; the bundled one if not given.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 8000. 0 takes a free one.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1.")] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="Who may call; `trimode keys add` makes it.")] = None,
    policy: Annotated[str | None, typer.Option(help="default, auto, or a .toml file.")] = None,
    audit: Annotated[Path | None, typer.Option(help="Audit file that every call is appended to.")] = None,
    queue: Annotated[int | None, typer.Option(help="Calls that may wait; 128.")] = None,
    slots: Annotated[int | None, typer.Option(help="Calls that run at once; 32.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for a request, waiting included; 600.")] = None,
    drain: Annotated[float | None, typer.Option(help="Seconds to finish in after SIGTERM; 30.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name in the API.")] = None,
    device: Annotated[str | None, typer.Option(help="Device of the weights; cpu.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Arithmetic of the weights; float32.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error; info.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with these and all other settings.")] = None,
    replicas: Annotated[
        int | None, typer.Option(help="Engines, each a process of Ray Serve's; needs the extra `ray`.", min=1)
    ] = None,
    replicas_most: Annotated[
        int | None, typer.Option(help="Engines under load; with it, --replicas is the fewest.", min=1)
    ] = None,
) -> None:
    """Serves one engine to OpenAI's clients, on loopback unless told otherwise; with --replicas, several.

    Settings: defaults < --config < environment (TRIMODE_PORT, ...) < options.
    """
    from ..server.process import serve as run
    from ..server.settings import ServerSettings

    options = {
        "model": model, "port": port, "host": host, "api_key_file": api_key_file, "policy": policy, "audit": audit,
        "queue": queue, "slots": slots, "timeout": timeout, "drain": drain, "name": name, "device": device,
        "dtype": dtype, "log_level": log_level,
    }  # fmt: skip
    settings = ServerSettings.gathered(options, os.environ, config)
    if replicas is None and replicas_most is None:
        run(settings)
    else:
        _replicated(settings, replicas or 1, replicas_most)


def _replicated(settings: ServerSettings, fewest: int, most: int | None) -> None:
    from ..ray_serve.settings import ClusterSettings

    if most is not None and most < fewest:
        raise TrimodeError(f"--replicas-most {most}: expected at least --replicas, {fewest}")
    try:
        from ..ray_serve.process import serve_cluster
    except ModuleNotFoundError as error:
        raise TrimodeError(f"--replicas needs Ray Serve ({error}): pip install 'trimode[ray]'") from None
    serve_cluster(settings, ClusterSettings(replicas=fewest, most=most))


@keys_app.callback()
def _keys() -> None:
    """Makes `add` a subcommand, because typer would run a single command without its name."""


@keys_app.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is: the tenant in logs and queues.")],
    file: Annotated[Path, typer.Option(help="The key file; made if it is not there.")],
) -> None:
    """Makes a key, keeps its digest, and prints the key once."""
    from ..server.keys import add_key

    print(add_key(file, name))
