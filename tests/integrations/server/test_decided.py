"""Decisions under the server: the calibration of its settings."""

from __future__ import annotations

import pytest
from served import MODEL, client_of

from trimode.integrations.server.settings import SettingsRefused
from trimode.policy.calls import Engine

ASKED = {"model": MODEL, "input": "Hello.", "questions": [{"type": "predicate", "instructions": "Is it late?"}]}


def test_the_calibration_of_the_settings_corrects_the_shares(reference: Engine) -> None:
    with client_of(reference) as plain, client_of(reference, calibration={"temperature": 1000.0}) as corrected:
        (before,) = plain.post("/v1/decisions", json=ASKED).json()["answers"]
        found = corrected.post("/v1/decisions", json=ASKED).json()
    assert abs(found["answers"][0]["probability"] - 0.5) < abs(before["probability"] - 0.5)
    assert found["trimode"]["calibration"]["temperature"] == 1000.0


def test_a_calibration_of_another_form_is_refused_at_the_start(reference: Engine) -> None:
    with (
        pytest.raises(SettingsRefused, match="'heat' is none of temperature"),
        client_of(reference, calibration={"heat": 1.0}),
    ):
        pass
