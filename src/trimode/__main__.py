"""`python -m trimode` and the `trimode` script."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line. `--version` is answered before typer is imported."""
    if sys.argv[1:] == ["--version"]:
        from trimode import __version__

        print(f"trimode {__version__}")
        return
    from trimode.integrations.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
