"""What replicas add to a call and to throughput on one machine: the same calls to one process and to Ray Serve.

    python scripts/serving/measure_cluster.py --replicas 0 1 2 --clients 1 16 --calls 200 --rounds 3 --json OUT

0 replicas are `trimode serve` in one process of its own. Each number of replicas is started, measured and ended before
the next; calls are those of `measure_server.py`, and the client is this process. Needs the extra `ray`. Replicas have
one thread of arithmetic each; the one process has as many as torch gives it. A JSON file that is there is added to.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from check_server import CHAT, MODEL
from measure_server import TEXT, TOKENS, run

from trimode.integrations.ray_serve.settings import ClusterSettings
from trimode.integrations.server.settings import ServerSettings


@contextmanager
def one_process() -> Generator[str]:
    """Yields the URL of `trimode serve` on loopback."""
    command = [sys.executable, "-m", "trimode", "serve", "--port", "0", "--log-level", "info", "--name", MODEL]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = next(line for line in process.stderr if '"serving"' in line)
        rest = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        try:
            yield json.loads(found)["url"]
        finally:
            process.terminate()
            process.wait(60)
            rest.wait(60)


@contextmanager
def serving(replicas: int) -> Generator[str]:
    """Yields the URL of so many replicas, or of one process."""
    if not replicas:
        with one_process() as url:
            yield url
        return
    from trimode.integrations.ray_serve.process import running

    with running(ServerSettings(port=0, name=MODEL), ClusterSettings(replicas=replicas, cpus=0.5, threads=1)) as url:
        yield url


async def measured(url: str, clients: int, calls: int, rounds: int) -> dict[str, Any]:
    """Returns the readings of one number of clients."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def once(number: int) -> int:
            messages = [{"role": "user", "content": TEXT.format(number)}]
            body = {"model": MODEL, "messages": messages, "max_completion_tokens": TOKENS, "trimode": {"mode": "ar"}}
            reply = (await client.post(CHAT, json=body)).raise_for_status()
            return int(reply.json()["usage"]["completion_tokens"])

        await run(once, clients, calls)  # prompts are cached from here on
        found = [await run(once, clients, calls) for _ in range(rounds)]
    seconds = [one for each, _ in found for one in each]
    return {
        "clients": clients,
        "calls": calls,
        "rounds": rounds,
        "median_seconds": statistics.median(seconds),
        "tokens_per_second": statistics.median(rate for _, rate in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--replicas", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    before = json.loads(args.json.read_text(encoding="utf-8"))["readings"] if args.json and args.json.exists() else []
    readings = [one for one in before if one["replicas"] not in args.replicas]
    for replicas in args.replicas:
        with serving(replicas) as url:
            for clients in args.clients:
                found = asyncio.run(measured(url, clients, args.calls, args.rounds))
                readings.append({"replicas": replicas, **found})
    report = {"python": platform.python_version(), "cores": os.cpu_count(), "readings": readings}
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
