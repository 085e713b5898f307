"""Decisions: what their answers say, that the input is read once, and what they leave in spans and records."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import trimode as tm
from trimode.policy.audit.consistency import check_record
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls.engine import Engine
from trimode.policy.decisions.asked import common_beginning
from trimode.policy.decisions.questions import answer_of
from trimode.policy.replay.decode_again import replay
from trimode.testing import FakeEngine, ScriptError

Ask = tm.DecisionQuestion
INPUT = "It is ten to midnight, and the user wants to know what 2 + 2 is."
QUESTIONS = [
    Ask.predicate("Is it late?", true="after 22:00", name="late"),
    Ask.choice("Which tool fits?", {"search": "the web", "calculator": "", "no tool at all": ""}, name="tool"),
    Ask.score("How urgent is it?", ["not at all", "a little", "very"], name="urgency"),
]


def test_answers_are_shares_of_the_options(reference: Engine) -> None:
    decision = reference.decide(INPUT, QUESTIONS)
    assert [len(answer.probabilities) for answer in decision.answers] == [2, 3, 3]
    for question, answer in zip(QUESTIONS, decision.answers, strict=True):
        assert answer.question is question
        assert sum(answer.probabilities) == pytest.approx(1)
        assert answer.confidence == max(answer.probabilities)
        assert answer.option in question.options
    assert decision["late"].probability == decision["late"].probabilities[0]
    assert decision["tool"].option in ("search", "calculator", "no tool at all")
    levels = decision["urgency"].probabilities
    assert decision["urgency"].score == pytest.approx(levels[1] + 2 * levels[2])
    assert asyncio.run(reference.adecide(INPUT, QUESTIONS)).answers == decision.answers


def test_a_question_does_not_see_the_others(reference: Engine) -> None:
    together = reference.decide(INPUT, QUESTIONS).answers
    for question, answer in zip(QUESTIONS, together, strict=True):
        alone = reference.decide(INPUT, [question]).answers[0]
        assert alone.logprobs == pytest.approx(answer.logprobs, abs=1e-4)
    assert reference.decide(INPUT, QUESTIONS[::-1]).answers == together[::-1]


def test_the_input_is_read_once_in_few_passes(fresh: Engine) -> None:
    many = [Ask.predicate(f"Is {number} mentioned?") for number in range(400)]
    stats = fresh.decide(INPUT * 20, many).stats
    own = len(fresh.tokenize("Is 399 mentioned?\nAnswer with Yes or No alone.", markup=False)) + 12
    assert stats.prefill_passes + stats.forward_passes <= 2 + stats.prompt_tokens // 256 + 400 * own // 500
    assert fresh.decide(INPUT * 20, many).stats.cached_tokens == stats.prompt_tokens - 1


def test_a_question_joins_the_last_turn_of_a_user_or_has_its_own(reference: Engine) -> None:
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    longer = [*talk, {"role": "user", "content": "Bye"}]
    for messages in (talk, longer, [{"role": "system", "content": "Be brief."}, *longer]):
        decision = reference.decide(messages, QUESTIONS[:1])
        text = QUESTIONS[0].text
        last = f"Bye\n\n{text}" if messages[-1]["content"] == "Bye" else text
        head = messages[:-1] if messages[-1]["role"] == "user" else messages
        asked = [*head, {"role": "user", "content": last}]
        assert decision.stats.prompt_tokens == len(reference.generate(messages=asked, max_tokens=1).prompt_ids) - 1


def test_temperature_flattens_the_shares_and_keeps_their_order(reference: Engine) -> None:
    plain = reference.decide(INPUT, QUESTIONS)
    warm = reference.decide(INPUT, QUESTIONS, calibration=tm.Calibration(temperature=3))
    for one, other in zip(plain.answers, warm.answers, strict=True):
        assert one.logprobs == other.logprobs
        assert one.option == other.option
        assert one.confidence >= other.confidence
    assert warm.calibration.temperature == 3


def test_a_line_corrects_predicates_alone_and_leaves_the_record_to_the_model(reference: Engine, tmp_path: Path) -> None:
    path, turned = tmp_path / "audit.jsonl", tm.Calibration(slope=-1.0, offset=0.5)
    plain = reference.decide(INPUT, QUESTIONS)
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}", content=True):
        found = reference.decide(INPUT, QUESTIONS, calibration=turned)
    yes, no = plain["late"].logprobs
    assert found["late"].probability == pytest.approx(1 / (1 + exp(yes - no - 0.5)))
    assert found["tool"] == plain["tool"]
    (record,) = records(read_audit(path))
    assert verify(path) == []
    assert record.text == "\n".join(answer.option for answer in plain.answers)
    assert isinstance(record.schema, dict)
    assert record.schema["calibration"] == {"temperature": 1.0, "slope": -1.0, "offset": 0.5}
    assert replay(record, reference).outcome == "same"


@given(logprobs=st.lists(st.floats(-1000, 0), min_size=2, max_size=9), temperature=st.floats(1e-6, 100))
@settings(derandomize=True)
def test_shares_are_probabilities(logprobs: list[float], temperature: float) -> None:
    question = Ask.choice("?", [str(number) for number in range(len(logprobs))])
    found = answer_of(question, logprobs, tm.Calibration(temperature=temperature))
    assert sum(found.probabilities) == pytest.approx(1)
    assert found.option == str(logprobs.index(max(logprobs))) or found.probabilities.count(found.confidence) > 1


@given(prompts=st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5))
@settings(derandomize=True)
def test_the_common_beginning_is_the_longest(prompts: list[list[int]]) -> None:
    found = common_beginning(prompts)
    longer = [prompt[: len(found) + 1] for prompt in prompts]
    assert all(prompt[: len(found)] == found for prompt in prompts)
    assert any(prompt == found for prompt in prompts) or any(prompt != longer[0] for prompt in longer)


@pytest.mark.parametrize("content", [True, False])
def test_the_record_adds_up_and_replays(reference: Engine, tmp_path: Path, content: bool) -> None:
    path = tmp_path / "audit.jsonl"
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}", content=content):
        decision = reference.decide(INPUT, QUESTIONS)
    assert verify(path) == []
    (record,) = records(read_audit(path))
    assert (record.call, record.step, record.kind) == (decision.audit_id, "decide", "choice")
    assert record.options == {"mode": "choice", "questions": 3}
    assert record.schema_sha256 is not None
    if not content:
        assert (record.logprobs, record.text, record.schema) == (None, None, None)
        assert replay(record, reference).outcome == "impossible"
        return
    assert record.logprobs == tuple(logprob for answer in decision.answers for logprob in answer.logprobs)
    assert record.text == "\n".join(answer.option for answer in decision.answers)
    found = replay(record, reference)
    assert (found.outcome, found.causes) == ("same", ())


def test_a_false_record_is_found(reference: Engine, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}", content=True):
        reference.decide(INPUT, QUESTIONS)
    (record,) = records(read_audit(path))
    assert record.logprobs is not None
    assert list(check_record(record, 1)) == []
    forged: list[tuple[str, dict[str, Any]]] = [
        ("text", {"logprobs": tuple(-score for score in record.logprobs)}),
        ("logprobs", {"logprobs": record.logprobs[1:]}),
        ("schema", {"schema": {"questions": []}}),
        ("schema", {"schema": {"questions": [{"options": 3}]}}),
        ("schema", {"schema": None}),
    ]
    for field, false in forged:
        assert field in [problem.field for problem in check_record(replace(record, **false), 1)]


def test_a_rule_of_the_caller_sees_the_questions(reference: Engine, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"

    def hide(text: str) -> str:
        return text.replace("secret", "...")

    with tm.session(reference, policy=tm.Policy(), trace=f"file:{path}", content=True, redact=hide):
        reference.decide(INPUT, [Ask.predicate("Is the secret out?"), Ask.predicate("Is it late?")])
    (record,) = records(read_audit(path))
    assert record.schema is None
    assert "secret" not in path.read_text()


def test_its_span(reference: Engine, spans: InMemorySpanExporter) -> None:
    with tm.session(reference, policy=tm.Policy()):
        reference.decide(INPUT, QUESTIONS)
    (found,) = (dict(span.attributes or {}) for span in spans.get_finished_spans() if span.name.startswith("chat"))
    assert (found["trimode.step.kind"], found["trimode.decision.questions"]) == ("choice", 3)


def test_budgets_count_it(reference: Engine) -> None:
    with tm.session(reference, policy=tm.Policy(), budget=tm.Budget(passes=1)):
        reference.decide(INPUT, QUESTIONS)
        with pytest.raises(tm.BudgetExceeded):
            reference.decide(INPUT, QUESTIONS)


def test_a_script_answers_for_a_fake_engine() -> None:
    fake = FakeEngine({"decide": ["Yes", {"search": 0.5, "calculator": 0.25, "no tool at all": 0.25}, "2"]})
    decision = fake.decide(INPUT, QUESTIONS)
    assert [answer.option for answer in decision.answers] == ["Yes", "search", "2"]
    assert decision["tool"].probabilities == pytest.approx((0.5, 0.25, 0.25))
    assert [answer.option for answer in FakeEngine().decide(INPUT, QUESTIONS).answers] == ["Yes", "search", "0"]
    with pytest.raises(ScriptError, match="3 questions"):
        FakeEngine({"decide": ["Yes"]}).decide(INPUT, QUESTIONS)


@pytest.mark.parametrize(
    "run",
    [
        lambda: Ask.predicate(" "),
        lambda: Ask.predicate(3),  # type: ignore[arg-type]
        lambda: Ask.predicate("x", name=3),  # type: ignore[arg-type]
        lambda: Ask.choice("x", "ab"),
        lambda: Ask.choice("x", ["a"]),
        lambda: Ask.choice("x", ["a", "a"]),
        lambda: Ask.choice("x", ["a", " "]),
        lambda: Ask.choice("x", [str(number) for number in range(256)]),
        lambda: Ask.score("x", "ab"),
        lambda: Ask.score("x", ["a"]),
    ],
)
def test_what_is_no_question_is_refused(run: Any) -> None:
    with pytest.raises(tm.RequestError):
        run()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, QUESTIONS), "input"),
        (([], QUESTIONS), "input is empty"),
        ((INPUT, "Is it?"), "questions"),
        ((INPUT, []), "0 questions"),
        ((INPUT, QUESTIONS * 200), "600 questions"),
        ((INPUT, ["Is it?"]), "DecisionQuestion"),
        ((INPUT, [QUESTIONS[0], QUESTIONS[0]]), "same name"),
    ],
)
def test_decisions_that_are_refused(arguments: tuple[Any, Any], message: str) -> None:
    with pytest.raises(tm.RequestError, match=message):
        FakeEngine().decide(*arguments)


@pytest.mark.parametrize("wrong", [0, -1, 1001, float("nan"), True, "1", None])
def test_temperatures_out_of_range_are_refused(wrong: Any) -> None:
    with pytest.raises(tm.RequestError, match="temperature"):
        tm.Calibration(temperature=wrong)
    with pytest.raises(tm.RequestError, match="slope"):
        tm.Calibration(slope=float("inf"))


def test_answers_have_what_their_kind_has() -> None:
    late, tool, _ = FakeEngine().decide(INPUT, QUESTIONS).answers
    with pytest.raises(tm.RequestError, match="predicate"):
        _ = tool.probability
    with pytest.raises(tm.RequestError, match="levels"):
        _ = late.score
    with pytest.raises(KeyError):
        _ = FakeEngine().decide(INPUT, QUESTIONS)["nothing"]


def test_an_options_share_is_that_of_a_whole_forward(reference: Engine) -> None:
    """The oracle: the log-probabilities of the option's own tokens, read after the whole prompt."""
    decision = reference.decide(INPUT, QUESTIONS)
    tool = decision["tool"]
    prompt = reference.generate(
        messages=[{"role": "user", "content": f"{INPUT}\n\n{QUESTIONS[1].text}"}], max_tokens=1
    ).prompt_ids
    for option, logprob in zip(tool.question.options, tool.logprobs, strict=True):
        found = reference.token_logprobs(prompt, reference.tokenize(option))
        assert sum(found.logprobs) == pytest.approx(logprob, abs=1e-4)
        assert exp(logprob) <= 1
