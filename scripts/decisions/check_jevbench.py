"""Runs jevbench, whose tests ask whether answers cohere, against `/v1/systemone` of an engine on loopback.

    python scripts/decisions/check_jevbench.py --json docs/benchmarks/jevbench-reference.json

Needs the packages of `make test-server`. The scores are those of the weights; that all requests are answered in the
benchmark's format is the endpoint's part.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trimode
from trimode.integrations.server.process import in_thread
from trimode.integrations.server.settings import ServerSettings
from trimode.policy.calls import Engine

jevbench: Any = import_module("jevbench")  # it has no types


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="as `Engine.load` takes it; default: the bundled checkpoint")
    parser.add_argument("--suite", default="jevbench-mini")
    parser.add_argument("--domains", nargs="*", help="cases of these domains alone; default: all")
    parser.add_argument("--json", type=Path, help="where the result goes")
    asked = parser.parse_args()
    with Engine.load(asked.model) as engine, in_thread(engine, ServerSettings()) as url:
        client: Any = jevbench.systemone(f"{url}/v1/systemone", model=engine.checkpoint.name)
        with client.client:
            report = jevbench.evaluate(
                client, suite=asked.suite, domains=asked.domains, cache=":memory:", progress=True
            )
        found = {
            "model": engine.runtime.model,
            "kernels": engine.runtime.kernels,
            "hardware": engine.runtime.hardware,
            "versions": {"trimode": trimode.__version__, "jevbench": version("jevbench")},
            "suite": asked.suite,
            "domains": asked.domains,
            "scores": {name: report.scores[name] for name in ("overall", "pillars", "groups")},
        }
    print(report.table("dimension"))
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
