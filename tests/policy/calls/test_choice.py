"""Choice steps: what they choose from, how sure they are, and what they leave in spans and records."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import trimode as tm
from trimode.policy.audit.consistency import check_record
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls.engine import Engine
from trimode.policy.replay.decode_again import replay


class Route(Enum):
    SEARCH = "search the web"
    ANSWER = "answer"


@tm.step("choice")
def decide(question: str) -> Literal["yes", "no", "no way, never"]:
    """{question}"""
    ...


@tm.step("choice")
async def route(question: str) -> Route:
    """{question}"""
    ...


@tm.step("choice", choices=["red", "green"])
def colour(of: str) -> str:
    """What colour is {of}?"""
    ...


def test_values_are_typed(reference: Engine) -> None:
    with tm.session(reference, policy=tm.Policy()) as session:
        assert decide("Is it late?") in ("yes", "no", "no way, never")
        assert isinstance(asyncio.run(route("What is the capital of France?")), Route)
        assert colour("grass") in ("red", "green")
    assert [kind for kind, _ in session.results] == ["choice"] * 3


def test_scores_are_those_of_the_engine(reference: Engine) -> None:
    with tm.session(reference, policy=tm.Policy()):
        result = decide.result("Is it late?")
    asked = [{"role": "user", "content": "Is it late?"}]
    alone = reference.choice(["yes", "no", "no way, never"], messages=asked)
    assert result.choice is not None
    assert result.choice.logprobs == alone.logprobs
    assert result.value == result.text == alone.text
    assert result.decoded.text == alone.text
    assert reference.tokenizer.decode(result.token_ids) == alone.text
    assert sum(result.choice.probabilities) == pytest.approx(1)
    assert asyncio.run(reference.achoice(["yes", "no", "no way, never"], messages=asked)).logprobs == alone.logprobs


def test_a_plain_call_can_be_a_choice(reference: Engine) -> None:
    result = reference.generate("Late?", step="choice", schema=Literal["yes", "no"])
    assert result.value in ("yes", "no")
    assert result.plan.reason == "choice: candidates are scored in one pass; no mode decodes them"


@tm.step("choice", schema=tm.Choice(["north-east", "south"]))
def listed(question: str) -> str:
    """{question}"""
    ...


@tm.step("choice")
def annotated(question: str) -> Annotated[str, tm.Choice(["north-east", "south"])]:
    """{question}"""
    ...


@pytest.mark.parametrize("step", [listed, annotated])
def test_a_list_of_texts_is_a_choice(reference: Engine, tmp_path: Path, step: Any) -> None:
    path = tmp_path / "audit.jsonl"
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}", content=True):
        result = step.result("Which way?")
    asked = [{"role": "user", "content": "Which way?"}]
    assert result.value == reference.choice(["north-east", "south"], messages=asked).text
    assert verify(path) == []
    (record,) = records(read_audit(path))
    assert replay(record, reference).outcome == "same"


def test_it_comes_whole_in_a_stream(reference: Engine) -> None:
    with tm.session(reference, policy=tm.Policy()) as session:
        (event,) = decide.stream("Is it late?")
    assert event.result is not None
    assert event.text == event.result.value
    assert session.results == [("choice", event.result)]


def test_what_has_no_part_in_it_is_noted(reference: Engine) -> None:
    with (
        tm.session(reference, policy=tm.Policy()),
        tm.using(mode="linear_spec", temperature=1.0, max_thinking_tokens=4),
    ):
        noted = decide.result("Is it late?")
    with tm.session(reference, policy=tm.Policy()):
        assert decide.result("Is it late?").notes == ()
    assert [note.partition("=")[0] for note in noted.notes] == ["mode", "temperature", "max_thinking_tokens"]


@pytest.mark.parametrize("content", [True, False])
def test_the_record_adds_up_and_replays(reference: Engine, tmp_path: Path, content: bool) -> None:
    path = tmp_path / "audit.jsonl"
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}", content=content):
        result = decide.result("Is it late?")
    assert verify(path) == []
    (record,) = records(read_audit(path))
    assert (record.kind, record.options) == ("choice", {"mode": "choice", "candidates": 3})
    assert [made.mode for made in record.rounds] == ["choice"]
    assert record.schema_valid is True
    if not content:
        assert (record.logprobs, record.text) == (None, None)
        return
    assert result.choice is not None
    assert (record.logprobs, record.text) == (result.choice.logprobs, result.text)
    assert replay(record, reference).outcome == "same"


def test_a_false_record_is_found(reference: Engine, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}", content=True):
        decide("Is it late?")
    (record,) = records(read_audit(path))
    assert record.logprobs is not None
    forged: list[tuple[str, dict[str, Any]]] = [
        ("text", {"logprobs": tuple(-score for score in record.logprobs)}),
        ("logprobs", {"logprobs": record.logprobs[:2] + record.logprobs}),
        ("rounds", {"rounds": tuple(replace(made, mode="ar") for made in record.rounds)}),
        ("guarantee", {"schema_sha256": None}),
    ]
    for field, false in forged:
        assert field in [problem.field for problem in check_record(replace(record, **false), 1)]


def test_its_span(reference: Engine, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    with tm.session(reference, policy=tm.Policy()):
        decide("Is it late?")
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
        decide("Is it late?")
    quiet, open_ = (dict(span.attributes or {}) for span in spans.get_finished_spans() if span.name.startswith("chat"))
    assert (quiet["trimode.step.kind"], quiet["gen_ai.output.type"]) == ("choice", "text")
    assert quiet["trimode.choice.candidates"] == 3
    assert "trimode.choice.logprobs" not in quiet
    logprobs = open_["trimode.choice.logprobs"]
    assert isinstance(logprobs, tuple)
    assert len(logprobs) == 3
    assert "decode choice" in [span.name for span in spans.get_finished_spans()]


def _number() -> Literal[1, 2]: ...
def _text() -> str: ...
def _mixed() -> Literal["a", None]: ...


@pytest.mark.parametrize("function", [_number, _text, _mixed])
def test_only_strings_can_be_chosen(function: Any) -> None:
    with pytest.raises(tm.StepError, match="a choice is one of different, non-empty strings"):
        tm.step("choice")(function)


def test_choices_that_are_refused(reference: Engine) -> None:
    with pytest.raises(tm.StepError, match="different, non-empty strings"):
        tm.step("choice", choices=["a", "a"])(_text)
    with pytest.raises(tm.StepError, match="choices belong to"):
        tm.step("json", choices=["a", "b"])(_text)
    with pytest.raises(tm.StepError, match="different, non-empty strings"):
        reference.generate("x", step="choice")
    with pytest.raises(tm.RequestError, match="non-empty strings"):
        reference.choice(["a", ""], "x")
