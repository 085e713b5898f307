"""The table of faults: what a server can do wrong, what a caller gets, and that nothing is lost."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Generator
from email.utils import formatdate
from pathlib import Path
from random import Random
from typing import Any

import pytest
from scripted import (
    EVENTS,
    Scripted,
    answer,
    answering,
    chunk,
    dropping,
    event,
    failing,
    held,
    playing,
    raw,
    silent,
)
from served import idle

import trimode as tm
from trimode.integrations.remote.transport.waiting import retry_after, wait_before
from trimode.policy.audit import read_audit, records, verify
from trimode.policy.remote import (
    AnswerGarbled,
    CallRefused,
    CircuitOpen,
    ConstraintNotHeld,
    EveryPoolFailed,
    OutputCut,
    Pool,
    RemoteError,
    Retry,
    ServerBusy,
    ServerFailed,
    ServerTimeout,
    ServerUnreachable,
    StreamBroken,
    Timeouts,
)

ONCE = Retry(attempts=1)
QUICK = Retry(attempts=3, base=0.001, cap=0.01)
SHORT = Timeouts(connect=5, first=0.1, next=0.1)
ASK: list[dict[str, Any]] = [{"role": "user", "content": "How many apples?"}]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def remote(server: Scripted, **options: Any) -> tm.Engine:
    given: Any = {"retry": ONCE, **options}
    return tm.Engine.remote(server.url, "openai", **given)


FAULTS: dict[str, tuple[Any, type[RemoteError], dict[str, Any]]] = {
    "500": (failing(500), ServerFailed, {"status": 500}),
    "502": (raw(b"<html>Bad Gateway", "text/html", 502), ServerFailed, {"status": 502}),
    "429": (failing(429, "Retry-After: 3\r\n"), ServerBusy, {"retry_after": 3.0}),
    "429 without a time": (failing(429), ServerBusy, {"retry_after": None}),
    "503": (failing(503), ServerBusy, {"status": 503}),
    "400": (failing(400, message="no such field"), CallRefused, {"status": 400}),
    "401": (failing(401), CallRefused, {"status": 401}),
    "redirect": (raw(b"", "text/html", 302), AnswerGarbled, {}),
    "slow to begin": (silent(), ServerTimeout, {"phase": "first"}),
    "half-open": (silent(event(chunk("It"))), ServerTimeout, {"phase": "next"}),
    "closed without a word": (lambda *_: None, ServerUnreachable, {}),
    "not HTTP": (lambda connection, _: connection.sendall(b"\x00\xff\x13garbage\r\n\r\n"), AnswerGarbled, {}),
    "garbage bytes": (raw(b"data: \xff\xfe\xfd\n\n"), AnswerGarbled, {}),
    "no JSON": (raw(b"data: {oops\n\n"), AnswerGarbled, {}),
    "no object": (raw(b"data: [1]\n\n"), AnswerGarbled, {}),
    "no choices": (raw(event({"object": "chunk"})), AnswerGarbled, {}),
    "fields of other types": (raw(event({"choices": ["text"]})), AnswerGarbled, {}),
    "an endless event": (raw(b"data: " + b"x" * (5 << 20)), AnswerGarbled, {}),
    "wrong content type": (raw(b"<html>hello", "text/html"), AnswerGarbled, {}),
    "no stream": (raw(b'{"choices":[]}', "application/json"), AnswerGarbled, {}),
    "truncated": (raw(event(chunk("It is"))), StreamBroken, {"text": "It is"}),
    "truncated inside an event": (raw(event(chunk("It is")) + b'data: {"cho'), StreamBroken, {"text": "It is"}),
    "no reason to end": (raw(event(chunk("It is")) + event("[DONE]")), StreamBroken, {"text": "It is"}),
    "killed amid the stream": (dropping([event(chunk("It is"))]), StreamBroken, {"text": "It is"}),
    "an error inside the stream": (
        raw(event(chunk("It is")) + event({"error": {"message": "out of memory"}})), ServerFailed, {"status": 0},
    ),
    "aborted": (answering("It is", finish="abort"), StreamBroken, {"text": "It is"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_a_typed_error_and_a_record(name: str, tmp_path: Path) -> None:
    play, expected, attributes = FAULTS[name]
    path = tmp_path / "calls.jsonl"
    with (
        playing(play) as server,
        remote(server, timeouts=SHORT) as engine,
        tm.session(engine, trace=f"file:{path}", content=True),
        pytest.raises(expected) as found,
    ):
        engine.generate(messages=ASK)
    assert type(found.value) is expected
    assert {key: getattr(found.value, key) for key in attributes} == attributes
    assert [one.outcome for one in found.value.attempts] == [f"trimode.policy.remote.errors.{expected.__name__}"]
    (record,) = records(read_audit(path))
    assert record.error == f"trimode.policy.remote.errors.{expected.__name__}"
    assert record.remote is not None
    assert [one.outcome for one in record.remote.attempts] == [record.error]
    assert record.remote.answer == ({"partial": attributes["text"]} if "text" in attributes else None)
    assert verify(path) == []


@pytest.mark.parametrize("name", sorted(set(FAULTS) - {"400", "401"}))
def test_fault_costs_another_attempt_and_loses_nothing(name: str, tmp_path: Path) -> None:
    play, expected, _ = FAULTS[name]
    path = tmp_path / "calls.jsonl"
    retry = Retry(attempts=2, base=0.001, cap=4 if name == "429" else 0.01)
    with playing(play, answering("20", " apples")) as server, remote(server, timeouts=SHORT, retry=retry) as engine:
        waits = list[float]()
        note_waits(engine, waits)
        with tm.session(engine, trace=f"file:{path}", content=True):
            result = engine.generate(messages=ASK)
    assert result.text == "20 apples"
    assert result.remote is not None
    outcomes = [one.outcome.rpartition(".")[2] for one in result.remote.attempts]
    assert outcomes == [expected.__name__, "answered"]
    assert any("answered at attempt 2" in note for note in result.notes)
    assert len(waits) == 1
    assert verify(path) == []


def note_waits(engine: tm.Engine, waits: list[float]) -> None:
    """Takes the time out of the waits between attempts, and notes them."""
    server: Any = engine
    server.server._sleep = lambda seconds: _noted(waits, seconds)


async def _noted(waits: list[float], seconds: float) -> None:
    waits.append(seconds)


def test_refused_connection() -> None:
    with playing(answering("x")) as server, remote(server) as engine:
        server.close()
        with pytest.raises(ServerUnreachable, match="is it running"):
            engine.generate(messages=ASK)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ServerUnreachable):
        tm.Engine.remote(f"http://127.0.0.1:{port}")


def test_what_is_no_server_of_the_api() -> None:
    listed = {"/v1/models": {"hello": 1}}
    with playing(answering("x"), lists=listed) as server, pytest.raises(AnswerGarbled, match="/v1/models"):
        remote(server)


def test_nothing_is_tried_again_once_a_piece_was_shown() -> None:
    script = dropping([event(chunk("It is"))]), answering("20")
    with playing(*script) as server, remote(server, retry=QUICK) as engine:
        events = engine.stream(messages=ASK)
        assert next(events).text == "It is"
        with pytest.raises(StreamBroken) as found:
            list(events)
        assert found.value.text == "It is"
        assert len(server.calls) == 1


def test_a_stream_that_failed_before_its_first_piece_is_tried_again() -> None:
    with playing(failing(500), answering("20")) as server, remote(server, retry=QUICK) as engine:
        assert "".join(event.text for event in engine.stream(messages=ASK)) == "20"


def test_leaving_a_stream_reaches_the_server() -> None:
    with playing(silent(event(chunk("It")))) as server, remote(server) as engine:
        events = engine.stream(messages=ASK)
        assert next(events).text == "It"
        events.close()
        assert server.gone.wait(5)
        assert idle(engine)


def test_cancelling_a_task_reaches_the_server() -> None:
    async def run(engine: tm.Engine, server: Scripted) -> None:
        task = asyncio.create_task(engine.agenerate(messages=ASK))
        await asyncio.to_thread(server.begun.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with playing(silent()) as server, remote(server) as engine:
        asyncio.run(run(engine, server))
        assert server.gone.wait(5)


def test_closing_the_engine_ends_its_calls() -> None:
    with playing(silent()) as server:
        engine = remote(server)
        found = list[BaseException]()

        def call() -> None:
            try:
                engine.generate(messages=ASK)
            except tm.CallCancelled as error:
                found.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        assert server.begun.wait(5)
        engine.close()
        thread.join(5)
        assert len(found) == 1
        with pytest.raises(tm.CallCancelled):
            engine.generate(messages=ASK)


@pytest.fixture
def pair() -> Generator[tuple[Scripted, Scripted]]:
    with playing(failing(500)) as one, playing(answering("20")) as other:
        yield one, other


def test_another_pool_answers_with_a_reason(pair: tuple[Scripted, Scripted]) -> None:
    one, other = pair
    with remote(one, pools=[Pool(url=other.url, name="spare")]) as engine:
        result = engine.generate(messages=ASK)
    assert result.text == "20"
    assert result.remote is not None
    assert result.remote.pool == "spare"
    assert any("'openai' did not answer" in note and "status 500" in note for note in result.notes)


def test_without_fallback_the_first_error_is_the_callers(pair: tuple[Scripted, Scripted]) -> None:
    one, other = pair
    with remote(one, pools=[Pool(url=other.url)], fallback=False) as engine, pytest.raises(ServerFailed):
        engine.generate(messages=ASK)
    assert other.calls == []


def test_a_pool_that_was_down_from_the_beginning_is_in_the_notes(pair: tuple[Scripted, Scripted]) -> None:
    one, other = pair
    url = one.url
    one.close()
    with remote(other, pools=[Pool(url=url, name="down")]) as engine:
        assert list(engine.capabilities) == ["openai"]
        result = engine.generate(messages=ASK)
    assert any("'down' did not answer when the engine was made" in note for note in result.notes)


def test_every_pool_failed(pair: tuple[Scripted, Scripted]) -> None:
    one, _ = pair
    with playing(failing(503)) as other:
        engine = remote(one, pools=[Pool(url=other.url, name="spare")])
        with engine, pytest.raises(EveryPoolFailed) as found:
            engine.generate(messages=ASK)
    assert {name: type(cause) for name, cause in found.value.causes.items()} == {
        "openai": ServerFailed,
        "spare": ServerBusy,
    }


def test_a_pool_that_fails_again_and_again_is_left_alone() -> None:
    retry = Retry(attempts=1, failures=2, cooldown=60)
    with playing(failing(500)) as server, remote(server, retry=retry) as engine:
        for _ in range(2):
            with pytest.raises(ServerFailed):
                engine.generate(messages=ASK)
        with pytest.raises(CircuitOpen):
            engine.generate(messages=ASK)
        assert len(server.calls) == 2


def test_more_calls_than_the_limit_wait() -> None:
    free = threading.Event()

    def waits(connection: socket.socket, asked: Any) -> None:
        free.wait(10)
        answering("20")(connection, asked)

    with playing(waits) as server, remote(server, limit=2) as engine:
        threads = [threading.Thread(target=engine.generate, kwargs={"messages": ASK}) for _ in range(5)]
        for thread in threads:
            thread.start()
        assert server.begun.wait(5)
        assert len(server.calls) <= 2
        free.set()
        for thread in threads:
            thread.join(10)
        assert len(server.calls) == 5


def test_a_probe_finds_a_server_that_ignores_schemas() -> None:
    with playing(answering("Hello!")) as server, remote(server) as engine:
        with pytest.raises(ConstraintNotHeld, match="guarantee='checked'"):
            engine.generate(messages=ASK, schema=SCHEMA)
        assert len(server.calls) == 1


def test_under_checked_such_a_server_is_tried_and_validated() -> None:
    script = answering("Hello!"), answering("Hello again!"), answering('{"n":20}')
    with playing(*script) as server, remote(server) as engine:
        result = engine.generate(messages=ASK, schema=SCHEMA, guarantee="checked")
    assert result.value == {"n": 20}
    assert result.guarantee == "checked"
    assert len(result.failed) == 1
    assert any("ignores this constraint" in note for note in result.notes)


def test_a_server_that_breaks_a_schema_that_it_kept_before() -> None:
    with (
        playing(*held(answering('{"n":"many"}'))) as server,
        remote(server) as engine,
        pytest.raises(tm.SchemaViolation, match="did not keep it"),
    ):
        engine.generate(messages=ASK, schema=SCHEMA)


def test_cut_output_is_no_value() -> None:
    with (
        playing(*held(answering('{"n":2', finish="length"))) as server,
        remote(server) as engine,
        pytest.raises(OutputCut, match="max_tokens") as found,
    ):
        engine.generate(messages=ASK, schema=SCHEMA, max_tokens=3)
    assert found.value.text == '{"n":2'


def test_a_session_that_is_out_of_time_keeps_what_came() -> None:
    with playing(silent(event(chunk("It is")))) as server, remote(server) as engine:
        with tm.session(engine, budget=tm.Budget(seconds=0.2)):
            result = engine.generate(messages=ASK)
        assert server.gone.wait(5)
    assert (result.text, result.finish_reason) == ("It is", "length")
    assert any("cut after" in note for note in result.notes)


def test_wait_is_random_below_a_bound_that_doubles() -> None:
    retry, random = Retry(base=1.0, cap=3.0), Random(1)
    error = ServerFailed("p", 500, "")
    for tried, bound in ((1, 1.0), (2, 2.0), (3, 3.0), (9, 3.0)):
        found = [wait_before(retry, tried, error, random) or 0.0 for _ in range(200)]
        assert bound / 2 < max(found) <= bound
        assert min(found) < bound / 4


def test_retry_after_is_kept_where_it_is_bearable() -> None:
    retry = Retry(base=0.5, cap=10.0)
    wait = wait_before(retry, 1, ServerBusy("p", 429, 4.0), Random(0))
    assert wait is not None
    assert 4.0 <= wait <= 4.5
    assert wait_before(retry, 1, ServerBusy("p", 429, 11.0), Random(0)) is None


@pytest.mark.parametrize("skew", [-86400.0, 0.0, 86400.0])
def test_dates_are_compared_with_the_servers_own_clock(skew: float) -> None:
    server = 1_800_000_000 + skew
    headers = {"retry-after": formatdate(server + 5, usegmt=True), "date": formatdate(server, usegmt=True)}
    assert retry_after(headers, lambda: 1_800_000_000) == 5.0


@pytest.mark.parametrize(
    ("given", "expected"),
    [("", None), ("soon", None), ("7", 7.0), ("-3", None), ("1e9", None), ("Mon, 99 Foo", None)],
)
def test_retry_after_that_cannot_be_read(given: str, expected: float | None) -> None:
    assert retry_after({"retry-after": given}) == expected


def test_a_date_in_the_past_is_now() -> None:
    assert retry_after({"retry-after": formatdate(1000, usegmt=True)}, lambda: 5000.0) == 0.0


def test_a_complete_answer_without_done_is_one() -> None:
    with playing(raw(answer("20").replace(b"data: [DONE]\n\n", b""), EVENTS)) as server, remote(server) as engine:
        assert engine.generate(messages=ASK).text == "20"
