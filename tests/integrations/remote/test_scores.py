"""Choices, decisions and log-probabilities at servers: what is sent, what comes of it, and who refuses.

The servers here speak the documented fields and hold a table of probabilities; `make test-remote` asks real ones.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import pytest
from scripted import Asked, Play, Scripted, answer, held, playing, raw, send_json

import trimode as tm
from trimode.policy.audit import read_audit, records, verify
from trimode.policy.remote import AnswerGarbled, NotReported, Retry, ScoresNotGiven
from trimode.policy.replay import replay

ASK: list[dict[str, Any]] = [{"role": "user", "content": "Is it late?"}]
WORDS = {"yes": (5,), "no": (6,), "perhaps": (7, 8), "Yes": (5,), "No": (6,), "no way": (6, 9)}
"""Tokens of each text."""
LIKELY = {5: 0.5, 6: 0.25, 7: 0.125, 8: 0.5, 9: 0.5}
"""Probability of each token, whatever is before it."""
Answers = Callable[[Asked], Any]


def tokens_of(asked: Asked) -> Any:
    """The tokenizers' answers: a prompt is as many tokens as it has messages and tools, and their words."""
    body = asked.body
    text = body.get("content", body.get("prompt"))
    if text in WORDS:
        return {"tokens": list(WORDS[text])}
    words = " ".join(one["content"] for one in body.get("messages", ())) or text
    return {"tokens": [1, *(10 + len(word) for word in words.split())]}


def prompt_logprobs(asked: Asked) -> Any:
    """vLLM's completion of each prompt."""

    def place(token: int) -> dict[str, Any]:
        listed = {token: LIKELY.get(token, 0.01), 5: LIKELY[5], 6: LIKELY[6]}
        ranked = sorted(listed, key=lambda one: -listed[one])
        return {str(one): {"logprob": log(listed[one]), "rank": at} for at, one in enumerate(ranked, 1)}

    choices = [
        {"index": number, "prompt_logprobs": [None, *map(place, prompt[1:])]}
        for number, prompt in enumerate(asked.body["prompt"])
    ]
    return {"choices": choices}


def forced(asked: Asked) -> Any:
    """llama.cpp's completion of one token, the one that a bias forces."""
    ((token, bias),) = asked.body["logit_bias"]
    assert bias > 0
    top = [{"id": 5, "logprob": log(0.5)}, {"id": 6, "logprob": log(0.25)}]
    found = {"id": token, "logprob": log(LIKELY[token]), "top_logprobs": top[: asked.body["logprobs"]]}
    return {"choices": [{"text": "?", "logprobs": {"content": [found]}}]}


def named(asked: Asked) -> Any:
    """A completion whose tokens are named by text, as OpenAI's API has it."""
    (token,) = asked.body["logit_bias"]
    return {"choices": [{"text": "?", "logprobs": {"tokens": ["?"], "token_logprobs": [log(LIKELY[int(token)])]}}]}


def scoring(completes: Answers) -> Play:
    def play(connection: socket.socket, asked: Asked) -> None:
        if asked.path == "/apply-template":
            send_json(connection, 200, {"prompt": " ".join(one["content"] for one in asked.body["messages"])})
        elif asked.path == "/tokenize":
            send_json(connection, 200, tokens_of(asked))
        elif "grammar" in asked.body:
            send_json(connection, 400, {"error": {"message": "no grammars"}})
        else:
            send_json(connection, 200, completes(asked))

    return play


SERVERS = pytest.mark.parametrize(
    ("kind", "completes"), [("vllm", prompt_logprobs), ("llamacpp", forced), ("trimode", named)]
)


def connected(server: Scripted, kind: str, **more: Any) -> tm.Engine:
    return tm.Engine.remote(server.url, kind, retry=Retry(attempts=1), **more)


@SERVERS
def test_a_choice_has_the_log_probabilities_of_all_options(kind: str, completes: Answers, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    with (
        playing(scoring(completes)) as server,
        connected(server, kind) as engine,
        tm.session(engine, trace=f"file:{path}", content=True),
    ):
        found = engine.choice(["no", "perhaps", "yes"], messages=ASK)
    assert found.logprobs == pytest.approx([log(0.25), log(0.125) + log(0.5), log(0.5)])
    assert (found.text, found.written, found.stats.prompt_tokens) == ("yes", None, 4)
    assert found.how == engine.capabilities[kind].scores
    assert found.probabilities == pytest.approx([0.25 / 0.8125, 0.0625 / 0.8125, 0.5 / 0.8125])
    (record,) = records(read_audit(path))
    assert verify(path) == []
    assert record.logprobs == found.logprobs
    assert record.remote is not None
    assert (record.text, record.remote.scores, record.remote.reported.output_tokens) == ("yes", found.how, None)
    assert any("log-probabilities are those of pool" in note for note in record.notes)


@SERVERS
def test_a_decision(kind: str, completes: Answers, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    late = tm.DecisionQuestion.predicate("Is it?", name="late")
    which = tm.DecisionQuestion.choice("Which?", ["no", "yes", "perhaps"], name="which")
    with (
        playing(scoring(completes)) as server,
        connected(server, kind) as engine,
        tm.session(engine, trace=f"file:{path}", content=True),
    ):
        found = engine.decide(ASK, [late, which])
        again = asyncio.run(engine.adecide(ASK, [late, which]))
    assert found.answers == again.answers
    assert found["late"].probability == pytest.approx(0.5 / 0.75)
    assert (found["which"].option, found.stats.prompt_tokens) == ("yes", 4)
    assert found.question_tokens == len(f"{late.text} {which.text}".split())
    assert verify(path) == []
    record = records(read_audit(path))[0]
    assert (record.text, record.options["questions"]) == ("Yes\nyes", 2)
    assert replay(record, None).outcome == "impossible"


@pytest.mark.parametrize(("kind", "completes"), [("vllm", prompt_logprobs), ("llamacpp", forced)])
def test_log_probabilities_of_tokens(kind: str, completes: Answers) -> None:
    with playing(scoring(completes)) as server, connected(server, kind) as engine:
        found = engine.token_logprobs([1, 11, 12], [7, 8], top=2)
        again = asyncio.run(engine.atoken_logprobs([1, 11, 12], [7, 8], top=2))
    assert (again.logprobs, again.top) == (found.logprobs, found.top)
    assert found.logprobs == pytest.approx([log(0.125), log(0.5)])
    assert [one[0] for one in found.top[0]] == [5, 6]
    assert found.stats.prompt_tokens == 3


@SERVERS
def test_options_that_cannot_be_told_apart(kind: str, completes: Answers) -> None:
    with playing(scoring(completes)) as server, connected(server, kind) as engine:
        with pytest.raises(tm.RequestError, match="'no' begins option 'no way'"):
            engine.choice(["yes", "no way", "no"], messages=ASK)
        with pytest.raises(tm.RequestError, match=r"'[yY]es' begins option '[yY]es'"):  # the same token of both
            engine.choice(["yes", "Yes"], messages=ASK)


def test_figures_that_are_not_the_models_own() -> None:
    """A server that reports log-probabilities after the bias finds each forced token certain."""

    def certain(asked: Asked) -> Any:
        found = forced(asked)
        found["choices"][0]["logprobs"]["content"][0]["logprob"] = 0.0
        return found

    with (
        playing(scoring(certain)) as server,
        connected(server, "llamacpp") as engine,
        pytest.raises(AnswerGarbled, match="sum to 2"),
    ):
        engine.choice(["yes", "no"], messages=ASK)


def _other_token(asked: Asked) -> Any:
    found = forced(asked)
    found["choices"][0]["logprobs"]["content"][0]["id"] += 1
    return found


@pytest.mark.parametrize(
    ("kind", "completes"),
    [
        ("llamacpp", _other_token),
        ("llamacpp", lambda _: {"choices": [{"text": "?"}]}),
        ("llamacpp", lambda _: {"choices": []}),
        ("vllm", lambda asked: {"choices": [{"index": 0}] * len(asked.body["prompt"])}),
        ("vllm", lambda asked: {"choices": [{"index": 0, "prompt_logprobs": [None]}] * len(asked.body["prompt"])}),
        ("vllm", lambda _: []),
        ("trimode", lambda _: {"choices": [{"logprobs": {"token_logprobs": [None]}}]}),
    ],
)
def test_other_answers(kind: str, completes: Answers) -> None:
    with playing(scoring(completes)) as server, connected(server, kind) as engine, pytest.raises(AnswerGarbled):
        engine.choice(["yes", "no"], messages=ASK)


@pytest.mark.parametrize(
    ("kind", "more", "why"),
    [
        ("openai", {}, "tokens that it writes alone"),
        ("sglang", {}, "tokens that it writes alone"),
        ("vllm", {"method": "diffusion"}, "its diffusion has none"),
    ],
)
def test_servers_that_score_nothing(kind: str, more: Any, why: str) -> None:
    question = tm.DecisionQuestion.predicate("Is it?")
    with playing(scoring(prompt_logprobs)) as server, connected(server, kind, **more) as engine:
        with pytest.raises(ScoresNotGiven, match=why):
            engine.decide(ASK, [question])
        with pytest.raises(ScoresNotGiven, match=why):
            engine.token_logprobs([1], [5])
        assert server.calls == []


@pytest.mark.parametrize("method", ["", "ngram"])
def test_a_choice_is_written_where_nothing_is_scored(method: str) -> None:
    with playing(*held(raw(answer('"no"')))) as server, connected(server, "openai", method=method) as engine:
        found = engine.choice(["yes", "no"], messages=ASK)
        sent = server.calls[-1].body
    assert (found.text, found.written, found.logprobs) == ("no", "no", ())
    assert sent["response_format"]["json_schema"]["schema"] == {"enum": ["yes", "no"]}
    with pytest.raises(NotReported):
        _ = found.probabilities


def test_an_option_that_the_server_made_up() -> None:
    with (
        playing(*held(raw(answer('"maybe"')))) as server,
        connected(server, "openai") as engine,
        pytest.raises(tm.SchemaViolation),
    ):
        engine.choice(["yes", "no"], messages=ASK)


def test_a_pool_that_scores_is_taken() -> None:
    """The first pool, whose diffusion scores nothing, is passed over."""
    with playing(raw(answer("20"))) as first, playing(scoring(prompt_logprobs)) as second:
        pools = [tm.Pool(url=second.url, name="scores")]
        with connected(first, "vllm", method="diffusion", pools=pools) as engine:
            found = engine.choice(["yes", "no"], messages=ASK)
        assert first.calls == []
    assert found.text == "yes"
