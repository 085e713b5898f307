"""Overload: places that run out, times that run out, keys, and a server that drains."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import BASE, LONG, MODEL, chat, client_of, held_to, idle, service_in
from starlette.testclient import TestClient

from trimode.integrations.server.app import create_app
from trimode.integrations.server.keys import add_key
from trimode.integrations.server.settings import ServerSettings
from trimode.policy.calls import Engine

PATH = "/v1/chat/completions"
SLOW = chat(response_format=held_to(LONG), max_completion_tokens=900)


def test_beyond_its_places_a_request_may_come_again_later(fresh: Engine) -> None:
    async def run() -> list[httpx.Response]:
        app = create_app(fresh, ServerSettings(slots=1, queue=1))
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            return await asyncio.gather(*(client.post(PATH, json=SLOW, timeout=60) for _ in range(4)))

    replies = sorted(asyncio.run(run()), key=lambda reply: reply.status_code)
    assert [reply.status_code for reply in replies] == [200, 200, 429, 429]
    for reply in replies[2:]:
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.json()["error"]["type"] == "rate_limit_error"
    assert replies[0].json()["choices"] == replies[1].json()["choices"]


@pytest.mark.parametrize("stream", [False, True])
def test_time_runs_out(fresh: Engine, stream: bool) -> None:
    with client_of(fresh, timeout=0.05, keep_alive=10) as client:
        reply = client.post(PATH, json={**SLOW, "stream": stream})
        assert "deadline_exceeded" in reply.text
        assert reply.status_code == (200 if stream else 504)
        assert idle(fresh)


def test_a_deadline_ends_the_wait(fresh: Engine) -> None:
    async def run() -> httpx.Response:
        app = create_app(fresh, ServerSettings(slots=1))
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            first = asyncio.create_task(client.post(PATH, json=SLOW, timeout=60))
            while app.state.service.runner.queue.running == 0:
                await asyncio.sleep(0)
            reply = await client.post(PATH, json=chat(trimode={"deadline": 0.01, "mode": "ar"}))
            await first
            return reply

    reply = asyncio.run(run())
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")


@pytest.fixture
def keyed(reference: Engine, tmp_path: Path) -> Iterator[tuple[TestClient, str]]:
    key = add_key(tmp_path / "keys", "ada")
    with client_of(reference, api_key_file=tmp_path / "keys", cors=["http://page.example"]) as client:
        yield client, key


def test_without_a_key_nothing_is_told(keyed: tuple[TestClient, str]) -> None:
    client, key = keyed
    for headers in ({}, {"authorization": "Bearer tm-wrong"}, {"authorization": f"Basic {key}"}, {"x-api-key": "x"}):
        reply = client.post(PATH, json=chat(), headers=headers)
        assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication_error")
        assert reply.headers["www-authenticate"] == "Bearer"
    assert client.get("/metrics").status_code == client.get("/v1/models").status_code == 401
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    for good in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
        assert client.post(PATH, json=chat(), headers=good).status_code == 200


def test_keys_share_the_slots(keyed: tuple[TestClient, str]) -> None:
    queue = service_in(keyed[0]).runner.queue
    queue.check(16, "ada")
    assert queue.slots == 32


def test_pages_of_other_origins(keyed: tuple[TestClient, str], reference: Engine) -> None:
    asked = {"origin": "http://page.example", "access-control-request-method": "POST"}
    assert keyed[0].options(PATH, headers=asked).headers["access-control-allow-origin"] == "http://page.example"
    with client_of(reference) as client:
        assert "access-control-allow-origin" not in client.options(PATH, headers=asked).headers


def test_a_server_that_drains_begins_nothing(reference: Engine) -> None:
    with client_of(reference) as client:
        assert client.get("/ready").json() == {"status": "ready", "waiting": 0}
        service_in(client).runner.draining = True
        assert client.get("/ready").status_code == 503
        assert client.get("/health").status_code == 200
        reply = client.post(PATH, json=chat())
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "shutting_down")
        assert reply.headers["retry-after"]


def test_metrics_count_what_was_done(fresh: Engine) -> None:
    with client_of(fresh) as client:
        usage: Any = client.post(PATH, json=chat(trimode={"mode": "linear_spec", "block_length": 4})).json()
        client.post(PATH, json=chat(stream=True))
        client.post(PATH, json=chat(n=99))
        text = client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    labels = '{kind="prose",mode="linear_spec"}'
    assert float(lines[f"trimode_output_tokens_total{labels}"]) == usage["usage"]["completion_tokens"]
    assert float(lines[f"trimode_accepted_tokens_total{labels}"]) == usage["trimode"]["accepted"]
    assert float(lines[f"trimode_drafted_tokens_total{labels}"]) == usage["trimode"]["drafted"]
    assert lines['trimode_http_requests_total{path="/v1/chat/completions",status="200"}'] == "2.0"
    assert lines['trimode_http_requests_total{path="/v1/chat/completions",status="400"}'] == "1.0"
    assert float(lines["trimode_kv_pages"]) == fresh.tokens.pool.pages
    assert any(line.startswith("trimode_time_to_first_piece_seconds_count") for line in lines)
    assert lines["trimode_engine_live"] == "0.0"
    assert MODEL
