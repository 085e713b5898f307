"""Every error class of ours has a place in the table, and its response names status, type, code and parameter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from made_errors import MADE

from trimode.engine import errors as below
from trimode.engine.errors import TrimodeError
from trimode.integrations.server import refusals
from trimode.integrations.server.error_table import TABLE, document, param_of, retry_after, shape_of
from trimode.policy import errors as above

HOMES = (below.__name__, above.__name__, refusals.__name__, "trimode.policy.refused")


def classes(kind: type[Exception] = TrimodeError) -> Iterator[type[Exception]]:
    yield kind
    for sub in kind.__subclasses__():
        yield from classes(sub)


OURS = sorted({kind for kind in classes() if kind.__module__ in HOMES}, key=lambda kind: kind.__qualname__)


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__qualname__)
def test_every_class_is_in_the_table(kind: type[Exception]) -> None:
    assert kind in TABLE or kind.__name__ == "WithResult"  # which has no errors of its own, only those of its kinds


def test_the_table_has_no_other_classes() -> None:
    assert set(TABLE) <= set(OURS)


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__qualname__)
def test_every_error_has_a_document(kind: type[Exception]) -> None:
    error = MADE[kind]()
    told, shape = document(error)["error"], shape_of(error)
    assert set(told) == {"message", "type", "param", "code"}
    assert 400 <= shape.status < 600
    assert (str(error) == told["message"]) == shape.shown


def test_an_unknown_error_tells_nothing() -> None:
    told = document(ValueError("a secret"))["error"]
    assert shape_of(ValueError()).status == 500
    assert "secret" not in told["message"]


@pytest.mark.parametrize(
    ("error", "param"),
    [
        (below.RequestError("messages[2].content='x': expected a string"), "messages[2].content"),
        (below.RequestError("agenerate(): messages is empty: pass at least one message"), "messages"),
        (below.RequestError("temperature=-1.0: expected 0 or more"), "temperature"),
        (below.RequestError("max_thinking_tokens=3: this checkpoint has no marker"), "reasoning_effort"),
        (below.RequestError("the engine is closed"), None),
        (above.PolicyError("mode='x': unknown", ["mode"]), "trimode.mode"),
        (above.UnsupportedKeyword("/properties/a/not", "not", "leave it out"), "response_format.properties.a.not"),
        (above.UnsupportedKeyword("/a", "not", "no").elsewhere("/function/parameters", "t"),
         "tools.function.parameters"),
        (above.BudgetTooSmall(9, 4), "max_completion_tokens"),
        (below.EngineStopped(ZeroDivisionError()), None),
    ],
)  # fmt: skip
def test_the_parameter_is_named(error: Exception, param: str | None) -> None:
    assert param_of(error) == param


def test_who_may_come_again_is_told_when() -> None:
    assert retry_after(below.QueueFull(1, 1, 1)) == 1
    assert retry_after(refusals.TooManyWaiting("full", retry_after=7)) == 7
    assert retry_after(below.RequestError("no")) is None
