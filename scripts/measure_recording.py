"""What recording a call costs: the same short calls with an audit file, with spans, with both, and with neither.

    python scripts/measure_recording.py --calls 240 --json OUT

Each call is decoded once a way, in an order that changes from call to call, so that whatever else the machine does
meets all ways alike. `caller`: the whole call, on the thread that makes it, which builds the prompt, waits for the
scheduler's thread, and records; `over_off` is the median of what a way takes longer than `off`, call by call. `alone`:
the recording of the finished call by itself, in CPU time, which with `off` is not zero either: results are counted and
hashed all the same. Files keep content. Spans go through OpenTelemetry's batch processor to an exporter that throws
them away, without content, which is the default; `everything` has content on spans too.

CPU time hardly follows the load of the machine; wall time does, and is there for completeness.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any
from unittest.mock import patch

import torch
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from rich.progress import track

import trimode as tm
from trimode.policy.audit.content import SWITCH
from trimode.policy.audit.package_versions import versions
from trimode.policy.audit.trail import AuditFile
from trimode.policy.calls.arguments import call_of
from trimode.policy.calls.call import Call
from trimode.policy.calls.engine import Engine
from trimode.policy.calls.result import Result
from trimode.policy.selection.settings import MODES

WAYS: dict[str, tuple[bool, bool, str]] = {
    "off": (False, False, "NO_CONTENT"),
    "file": (True, False, "NO_CONTENT"),
    "spans": (False, True, "NO_CONTENT"),
    "file_and_spans": (True, True, "NO_CONTENT"),
    "everything": (True, True, "SPAN_ONLY"),
}
"""By name: an audit file, spans, and what the content switch says of spans."""
PROMPTS = ("How long is the table?", "Plan a trip to Rome.", "Book a room for two people, from Monday on.")
SCHEMA = {
    "type": "object",
    "properties": {"low": {"type": "integer", "minimum": 0, "maximum": 99}, "unit": {"enum": ["cm", "m"]}},
    "required": ["low", "unit"],
}
WARM_UP = 12
"""Calls before the first that counts."""


class Discard(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None: ...


class Ways:
    """Puts one way of recording in force at a time."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self.recording = TracerProvider()
        self.recording.add_span_processor(BatchSpanProcessor(Discard()))
        self.files = {way: AuditFile(folder / f"{way}.jsonl", content=True) for way, (kept, *_) in WAYS.items() if kept}

    @contextmanager
    def under(self, way: str) -> Generator[None]:
        _, spanned, switch = WAYS[way]
        provider = self.recording if spanned else trace.NoOpTracerProvider()
        with (
            patch.object(trace, "get_tracer_provider", lambda: provider),
            patch.dict(os.environ, {SWITCH: switch}),
            tm.session(self.engine, policy=tm.Policy(), trace=self.files.get(way)),
        ):
            yield

    def close(self) -> None:
        self.recording.shutdown()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    engine = Engine.load()
    with tempfile.TemporaryDirectory() as folder:
        ways = Ways(engine, Path(folder))
        rows = measured(engine, ways, args.calls)
        sizes = {way: file.path.stat().st_size // (2 * len(rows) + 2 * WARM_UP) for way, file in ways.files.items()}
        ways.close()
    report = {
        "python": platform.python_version(),
        "versions": versions(),
        "hardware": engine.runtime.hardware,
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "calls": len(rows),
        "output_tokens_median": median(row["tokens"] for row in rows),
        "rounds_median": median(row["rounds"] for row in rows),
        "bytes_a_call": sizes["file"],
        "caller_ms": {way: summary(rows, way) for way in WAYS},
        "alone_cpu_ms": {way: spread([row["alone"][way] for row in rows]) for way in WAYS},
    }
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=240)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measured(engine: Engine, ways: Ways, count: int) -> list[dict[str, Any]]:
    """A row a call: CPU and wall milliseconds by way, of the whole call and of its recording alone."""
    rows: list[dict[str, Any]] = []
    for number, call in track(list(enumerate(itertools.islice(calls(), WARM_UP + count))), description="measuring"):
        order = [*WAYS][number % len(WAYS) :] + [*WAYS][: number % len(WAYS)]
        row: dict[str, Any] = {"cpu": {}, "wall": {}, "alone": {}}
        for way in order:
            with ways.under(way):
                wall, cpu = time.perf_counter(), time.thread_time()
                result = engine.run(call)
                row["cpu"][way] = (time.thread_time() - cpu) * 1e3
                row["wall"][way] = (time.perf_counter() - wall) * 1e3
                row["alone"][way] = recorded(engine, call, result)
                row["tokens"], row["rounds"] = len(result.token_ids), len(result.trace)
        rows.append(row)
    return rows[WARM_UP:]


def calls() -> Iterator[Call]:
    """Short ones in every mode in turn, greedy and sampled, a third of them under a schema."""
    for seed, (prompt, temperature, mode) in enumerate(itertools.cycle(itertools.product(PROMPTS, (0.0, 1.0), MODES))):
        schema = SCHEMA if prompt == PROMPTS[-1] else None
        ask = [{"role": "user", "content": prompt}]
        yield call_of(
            "measure", None, messages=ask, mode=mode, temperature=temperature, seed=seed, max_tokens=32, schema=schema
        )


def recorded(engine: Engine, call: Call, result: Result) -> float:
    """CPU milliseconds to record the finished call once more."""
    request = engine.translator.request(call)
    begin = time.thread_time()
    with engine.recording(call) as recording:
        recording.request, recording.result = request, result.decoded
        recording.valid = result.valid
    return (time.thread_time() - begin) * 1e3


def summary(rows: list[dict[str, Any]], way: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for clock in ("cpu", "wall"):
        over = median(row[clock][way] - row[clock]["off"] for row in rows)
        found[clock] = {"median": round(median(row[clock][way] for row in rows), 3), "over_off": round(over, 3)}
    return found


def spread(values: list[float]) -> dict[str, float]:
    cut = quantiles(values, n=20)
    return {"median": round(median(values), 3), "mean": round(fmean(values), 3), "p95": round(cut[-1], 3)}


if __name__ == "__main__":
    main()
