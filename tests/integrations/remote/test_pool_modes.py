"""Calls that name no mode, on servers that have not the table's: each takes one that is there, or is told why not."""

from __future__ import annotations

from typing import Any

import pytest
from scripted import answer, answering, held, playing, raw

import trimode as tm
from trimode.policy.remote import Retry

ASK: list[dict[str, Any]] = [{"role": "user", "content": "How many apples?"}]
TOOL = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}
METHODS = {"ngram": "lookup_spec", "eagle3": "linear_spec", "": "ar"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("policy", ["default", "auto"])
@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_turn_takes_the_mode_that_is_there(method: str, policy: str, choice: str) -> None:
    with (
        playing(answering("20")) as server,
        tm.Engine.remote(server.url, method=method) as engine,
        tm.session(engine, policy=policy),
    ):
        result = engine.generate(messages=ASK, tools=[TOOL], step="turn", tool_choice=choice)
        streamed = list(engine.stream(messages=ASK, tools=[TOOL], step="turn", tool_choice=choice))[-1].result
    assert (result.text, result.plan.mode) == ("20", METHODS[method])
    assert streamed is not None
    assert streamed.plan.mode == METHODS[method]


@pytest.mark.parametrize("method", METHODS)
def test_a_choice_too(method: str) -> None:
    with playing(*held(raw(answer('"no"')))) as server, tm.Engine.remote(server.url, method=method) as engine:
        result = engine.generate(messages=ASK, step="choice", schema={"enum": ["yes", "no"]})
    assert (result.value, result.plan.mode) == ("no", METHODS[method])
    assert "no mode decodes" not in result.plan.reason


def test_a_turn_where_nothing_is_exact() -> None:
    with playing(answering("20")) as server, tm.Engine.remote(server.url, "vllm", method="diffusion") as engine:
        with pytest.raises(tm.RequestError, match="diffusion"):
            engine.generate(messages=ASK, step="turn", tool_choice="none", tools=[TOOL])
        result = engine.generate(messages=ASK, step="turn", tool_choice="none", tools=[TOOL], exact=False)
    assert (result.text, result.plan.mode, result.plan.exact) == ("20", "diffusion", False)


def test_a_mode_that_is_named_and_is_not_there() -> None:
    with (
        playing(answering("20")) as server,
        tm.Engine.remote(server.url, method="ngram", retry=Retry(attempts=1)) as engine,
        pytest.raises(tm.ModeUnavailable, match="lookup_spec"),
    ):
        engine.generate(messages=ASK, tools=[TOOL], step="turn", mode="ar")
