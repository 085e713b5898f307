"""`python -m trimode` and the `trimode` script."""

from __future__ import annotations


def main() -> None:
    from trimode.integrations.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
