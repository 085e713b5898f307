"""Streams: their order, their characters, errors amid them, and clients that leave or do not read."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from served import (
    ASK,
    LONG,
    TOOL,
    Connection,
    Scripted,
    chat,
    client_of,
    documents,
    held_to,
    idle,
    listening,
    play,
    service_in,
)  # fmt: skip
from starlette.applications import Starlette
from starlette.testclient import TestClient

from trimode.engine.errors import EngineStopped
from trimode.integrations.server.asks.events import CallDelta, Finished, MadeCall, Started, TextDelta, Usage
from trimode.policy.calls import Engine

PATH = "/v1/chat/completions"
REPORT = {"record": "r", "mode": "ar", "kind": "prose", "passes": 1, "reason": ""}
STARTED = Started(choice=0, record="r", mode="ar", kind="prose")


def finished(**more: Any) -> Finished:
    given: dict[str, Any] = {"content": "", "thinking": None, "calls": (), "finish": "stop", **more}
    return Finished(choice=0, usage=Usage(prompt=1, output=1), report=REPORT, **given)


@pytest.fixture
def client(reference: Engine) -> Iterator[TestClient]:
    with client_of(reference) as made:
        yield made


def streamed(client: TestClient, **more: Any) -> list[Any]:
    reply = client.post(PATH, json=chat(stream=True, **more))
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    return documents(reply.text)


def test_order_of_text(client: TestClient) -> None:
    whole = client.post(PATH, json=chat(max_completion_tokens=20)).json()
    *chunks, usage, end = streamed(client, stream_options={"include_usage": True}, max_completion_tokens=20)
    assert end == "[DONE]"
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], whole["usage"]["completion_tokens"])
    assert all(chunk["usage"] is None for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert all("role" not in delta for delta in deltas[1:])
    assert "".join(delta.get("content", "") for delta in deltas) == whole["choices"][0]["message"]["content"]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + [whole["choices"][0]["finish_reason"]]
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}) == 1
    assert chunks[-1]["trimode"]["mode"] == whole["trimode"]["mode"]


def test_usage_only_where_it_is_asked_for(client: TestClient) -> None:
    *chunks, end = streamed(client)
    assert end == "[DONE]"
    assert not any("usage" in chunk for chunk in chunks)


def test_order_of_a_call(client: TestClient) -> None:
    *chunks, _ = streamed(client, tools=[TOOL], tool_choice="required", max_completion_tokens=60)
    pieces = [piece for chunk in chunks for piece in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert {piece["index"] for piece in pieces} == {0}
    assert (pieces[0]["type"], pieces[0]["function"]["name"]) == ("function", "calculator")
    assert pieces[0]["id"]
    assert all("id" not in piece and "name" not in piece["function"] for piece in pieces[1:])
    assert set(json.loads("".join(piece["function"]["arguments"] for piece in pieces))) == {"expression"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_choices_are_told_apart(client: TestClient) -> None:
    whole = client.post(PATH, json=chat(n=3, temperature=1.0)).json()
    *chunks, _ = streamed(client, n=3, temperature=1.0)
    for choice in whole["choices"]:
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        assert "".join(one["delta"].get("content", "") for one in own) == choice["message"]["content"]
        assert [one["finish_reason"] for one in own if one["finish_reason"]] == [choice["finish_reason"]]


def test_a_refusal_before_the_stream_has_its_own_status(client: TestClient) -> None:
    for more in ({"max_completion_tokens": 10**6}, {"response_format": held_to({"type": "objekt"})}):
        assert client.post(PATH, json=chat(stream=True, **more)).status_code == 400


def test_characters_are_whole_at_borders_of_chunks(client: TestClient) -> None:
    text = "naïve 日本語 🎉\u2028 \r\n\x00 end"
    play(client, Scripted([STARTED, *(TextDelta(choice=0, text=one) for one in text), finished()]))
    reply = client.post(PATH, json=chat(stream=True))
    lines = reply.content.split(b"\n\n")
    assert all(line.decode("utf-8").startswith("data: ") for line in lines if line)
    found = documents(reply.content.decode("utf-8"))
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in found[:-1]) == text


def test_several_calls_have_their_index_and_id(client: TestClient) -> None:
    pieces = [
        CallDelta(choice=0, index=0, id="a", name="f"), CallDelta(choice=0, index=0, arguments='{"x"'),
        CallDelta(choice=0, index=0, arguments=":1}"), CallDelta(choice=0, index=1, id="b", name="g", arguments="{}"),
    ]  # fmt: skip
    made = (MadeCall(id="a", name="f", arguments='{"x":1}'), MadeCall(id="b", name="g", arguments="{}"))
    play(client, Scripted([STARTED, *pieces, finished(calls=made, finish="tool_calls", content=None)]))
    chunks = [one for one in documents(client.post(PATH, json=chat(stream=True)).text) if one != "[DONE]"]
    sent = [piece for chunk in chunks for piece in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [(piece["index"], piece.get("id")) for piece in sent] == [(0, "a"), (0, None), (0, None), (1, "b")]


def test_an_error_amid_the_stream_is_an_event(client: TestClient) -> None:
    play(client, Scripted([STARTED, TextDelta(choice=0, text="a")], EngineStopped(ZeroDivisionError("secret"))))
    reply = client.post(PATH, json=chat(stream=True))
    *_, last = documents(reply.text)
    assert reply.status_code == 200
    assert last["error"]["code"] == "engine_stopped"
    assert "secret" not in reply.text


def test_silence_is_filled_with_comments(client: TestClient) -> None:
    play(client, Scripted([STARTED, finished()], pause=0.05), keep_alive=0.01)
    reply = client.post(PATH, json=chat(stream=True))
    assert reply.text.startswith(": keep-alive\n\n")
    assert documents(reply.text)[-1] == "[DONE]"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_call(client: TestClient, fresh: Engine, stream: bool) -> None:
    del client

    async def run() -> int:
        with client_of(fresh) as own:
            assert isinstance(own.app, Starlette)
            connection = Connection(own.app, lambda sent: len(sent) > 2)
            body = chat(stream=stream, response_format=held_to(LONG), max_completion_tokens=900)
            asked = asyncio.create_task(connection.post(PATH, body))
            while not stream and not fresh.tokens.scheduler.running:
                await asyncio.sleep(0)
            if not stream:
                connection.gone.set()
            await asked
            assert service_in(own).runner.queue.running == 0
            return fresh.tokens.scheduler.passes

    before = fresh.tokens.scheduler.passes
    passes = asyncio.run(run()) - before
    assert idle(fresh)
    assert passes < 200  # of at least 400 that the whole output takes
    kept = sum(count > 0 for count in fresh.tokens.pool.references)
    assert kept + fresh.tokens.pool.free == fresh.tokens.pool.pages
    assert max(fresh.tokens.pool.references) <= 1  # by the prefix index alone


def test_a_reader_that_stops_reading_holds_no_pages(fresh: Engine) -> None:
    with listening(fresh, stall=0.2) as url:
        parts = urlsplit(url)
        body = json.dumps(chat(stream=True, response_format=held_to(LONG), max_completion_tokens=900)).encode()
        head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        with socket.create_connection((parts.hostname, parts.port)) as unread:
            unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            unread.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            unread.recv(1)
            assert idle(fresh)
            assert httpx.post(f"{url}{PATH}", json=chat(), timeout=30).status_code == 200


def test_a_client_on_a_socket_that_leaves(fresh: Engine) -> None:
    with listening(fresh) as url:
        before = fresh.tokens.scheduler.passes
        body = chat(stream=True, response_format=held_to(LONG), max_completion_tokens=900)
        with httpx.stream("POST", f"{url}{PATH}", json=body, timeout=30) as reply:
            assert next(reply.iter_lines()).startswith("data: ")
        assert idle(fresh)
        assert fresh.tokens.scheduler.passes - before < 400
    assert ASK
