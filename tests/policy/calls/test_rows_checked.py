"""What a check of rows at load found stands where users look: the engine, its records, `trimode doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

import trimode as tm
from trimode.integrations.cli.doctor import examined
from trimode.kernels.reference import fixed_shape
from trimode.policy.audit.record import Runtime
from trimode.policy.audit.trail import read_audit, records
from trimode.policy.calls.engine import Engine
from trimode.policy.selection.cost_model import CostModel, Curve

LEVEL = Curve((1, 64), (0.001, 0.0011))
"""Prices of passes, so that none is measured."""


@pytest.fixture
def uneven(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that feels at which place of its tile a row is."""

    def multiply(a: Tensor, b: Tensor) -> Tensor:
        made = torch.matmul(a, b)
        made[..., 3, :] *= 1 + 2.0**-20
        return made

    monkeypatch.setattr(fixed_shape, "multiply", multiply)


def written(engine: Engine, path: Path) -> Runtime:
    with tm.session(engine, policy=tm.Policy(), trace=f"file:{path}"):
        engine.generate("x", mode="ar", max_tokens=2)
    (record,) = records(read_audit(path))
    return record.runtime


def test_an_engine_and_its_records_say_that_rows_were_checked(reference: Engine, tmp_path: Path) -> None:
    assert reference.kernels.endswith(", rows checked to agree")
    assert written(reference, tmp_path / "audit.jsonl").exactness == "checked"


@pytest.mark.usefixtures("uneven")
def test_a_machine_whose_rows_disagree_loads_by_the_callers_word_alone(tmp_path: Path) -> None:
    with pytest.raises(tm.RowsDisagree, match="kernels='torch-fast' loads without the promise"):
        Engine.load(kernels="torch")
    engine = Engine.load(kernels="torch-fast")
    assert engine.kernels == "torch-fast (asked for), rows not promised to agree"
    assert written(engine, tmp_path / "audit.jsonl").exactness == "not promised"
    engine.close()


def test_a_record_from_before_the_check_is_read(reference: Engine) -> None:
    fields: dict[str, Any] = asdict(reference.runtime)
    del fields["exactness"]
    found = TypeAdapter(Runtime).validate_json(json.dumps(fields))
    assert found == replace(reference.runtime, exactness="unknown")


@pytest.mark.usefixtures("uneven")
def test_doctor_says_why_kernels_are_refused_and_still_says_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trimode.policy.calls.engine.calibrated", lambda *_: CostModel(LEVEL, LEVEL, 0.0))
    refused = examined(None, "cpu", "torch")
    assert refused["exactness"].startswith("refused: torch kernels give a row other bits in other company here: ")
    assert refused["kernels"] == "torch-fast (asked for), rows not promised to agree"


def test_doctor_says_what_the_check_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimode.policy.calls.engine.calibrated", lambda *_: CostModel(LEVEL, LEVEL, 0.0))
    found = examined(None, "cpu", "torch")
    assert found["exactness"] == "checked"
    assert found["kernels"].endswith(", rows checked to agree")
