"""The check of the server on few requests and mutants: every answer right, everything given back, no status of 500."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from trimode.integrations.server.process import in_thread
from trimode.integrations.server.settings import ServerSettings
from trimode.policy.calls.engine import Engine

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "serving"))

import check_server


def test_a_small_soak_and_some_mutants(fresh: Engine) -> None:
    with in_thread(fresh, ServerSettings(name=check_server.MODEL)) as url:
        report = {
            "soak": asyncio.run(check_server.soak(fresh, url, 40, 8)),
            "mutants": asyncio.run(check_server.mutants(url, 200, 8)),
        }
    assert check_server.failures(report) == []
    assert report["soak"]["right"] > 25
    assert report["mutants"]["400"] > 50


def test_failures_are_seen() -> None:
    good = {"right": 3, "pages_back": True, "live": 0}
    assert check_server.failures({"soak": {**good, "wrong": 1}, "mutants": {"200": 1}}) == ["wrong"]
    assert check_server.failures({"soak": {**good, "live": 1}, "mutants": {}}) == ["pages"]
    assert check_server.failures({"soak": good, "mutants": {"500": 1, "no answer: X": 1}}) == ["500", "no answer: X"]
