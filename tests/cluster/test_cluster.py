"""Real Ray on this machine: replicas are killed, added and drained under load, and every answer is one engine's.

`make test-cluster` runs this in an environment with Ray. The tests share one cluster and go on where the one before
left off, because starting Ray takes most of the time; each asks for the replicas that it needs.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import ray
from ray import serve
from served import LONG, TOOL, chat, client_of, documents, held_to
from typer.testing import CliRunner

from trimode.integrations.cli.app import app as command_line
from trimode.integrations.ray_serve.application import REPLICAS, cluster_app
from trimode.integrations.ray_serve.process import APP, joined, running
from trimode.integrations.ray_serve.replica import About
from trimode.integrations.ray_serve.settings import ClusterSettings
from trimode.integrations.server.settings import ServerSettings
from trimode.policy.audit import CallRecord, read_audit, records, verify
from trimode.policy.calls import Engine

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]
BUSY: Final = 4
REQUESTS: Final = 200
CLIENTS: Final = 16
KILLING: Final = 50
"""The request, a long stream, that kills the replica which serves it once it has begun."""
PATIENCE: Final = 400.0
"""Seconds within which the cluster has to come to a number of replicas."""
WORDS: Final = {"type": "array", "items": {"enum": ["one", "two", "three"]}, "minItems": 8, "maxItems": 8}
Begun = Callable[[str], None]
MODES: Final = ("ar", "linear_spec", "quadratic_spec")


def body(number: int) -> dict[str, Any]:
    """The request of a number: streams and whole answers, all exact modes, texts, schemas and tools, with and without
    a seed."""
    shapes: list[dict[str, Any]] = [
        {"max_completion_tokens": 40},
        {"max_completion_tokens": 40, "temperature": 1.0, "seed": number},
        {"max_completion_tokens": 120, "response_format": held_to(WORDS)},
        {"max_completion_tokens": 64, "tools": [TOOL], "temperature": 0.7},
    ]
    if number == KILLING:
        return long()
    asked = f"There are {number % 9} boxes with {number % 7} apples in each box. How many apples are there?"
    own = {"messages": [{"role": "user", "content": asked}], "trimode": {"mode": MODES[number % 3]}}
    return chat(**shapes[number % 4], **own, stream=number % 2 == 0)


def long() -> dict[str, Any]:
    """A stream of hundreds of passes."""
    return chat(response_format=held_to(LONG), max_completion_tokens=800, trimode={"mode": "ar"}, stream=True)


@dataclass
class Answer:
    """What a client got. `text`: of the answer and of its calls; `whole`: it came to its end."""

    request: str
    status: int
    text: str = ""
    whole: bool = False
    served: dict[str, Any] = field(default_factory=dict)


def answer_of(request: str, found: Any) -> Answer:
    """`found`: a response of httpx, or of starlette's test client, which has its own kind."""
    if found.status_code != 200:
        return Answer(request, found.status_code, found.text)
    if "event-stream" not in found.headers["content-type"]:
        whole = found.json()
        return Answer(request, 200, _said(whole["choices"][0]["message"]), True, whole["trimode"].get("served", {}))
    told = documents(found.text)
    chunks = [one for one in told if isinstance(one, dict) and "choices" in one]
    text = "".join(_said(one["choices"][0]["delta"]) for one in chunks)
    report: dict[str, Any] = next((one["trimode"] for one in chunks if "trimode" in one), {})
    return Answer(request, 200, text, told[-1:] == ["[DONE]"], report.get("served", {}))


def _said(message: dict[str, Any]) -> str:
    calls = [one["function"] for one in message.get("tool_calls", ())]
    return (message.get("content") or "") + "".join(one.get("name", "") + one["arguments"] for one in calls)


@dataclass
class Cluster:
    """The application, and every call that it accepted."""

    client: httpx.Client
    settings: ServerSettings
    accepted: list[str] = field(default_factory=list)
    asked: ClusterSettings | None = None
    _ids: Callable[[], int] = field(default_factory=lambda: count().__next__)

    def ask(self, asked: dict[str, Any], session: str | None = None, begun: Begun = lambda _: None) -> Answer:
        """Asks and waits for the whole answer. `begun`: told the replica's name when the response has begun."""
        request = f"call-{self._ids()}"
        headers = {"x-request-id": request} | ({} if session is None else {"x-session-id": session})
        with self.client.stream("POST", "/v1/chat/completions", json=asked, headers=headers) as response:
            begun(response.headers.get("x-trimode-replica", ""))
            response.read()
        found = answer_of(request, response)
        self.accepted += [request] if found.status == 200 else []
        return found

    def scale(self, replicas: int, **more: Any) -> None:
        """Asks for so many replicas and waits until they are there. Ray puts new ones in the place of all."""
        if self.asked != (asked := small(replicas=replicas, **more)):
            serve.run(cluster_app(self.settings, asked), name=APP, route_prefix="/")
            self.asked = asked
        self.until(replicas)

    def replicas(self) -> list[About]:
        found = (
            serve.get_deployment_handle(REPLICAS, APP).broadcast("about").results(timeout_s=30, return_exceptions=True)
        )
        return [one for one in found if isinstance(one, About)]

    def until(self, replicas: int) -> list[About]:
        """Waits until so many replicas answer, and the door knows them and no others."""
        end = time.monotonic() + PATIENCE
        while len(found := self.replicas()) != replicas or self.known() != {one.replica for one in found}:
            assert time.monotonic() < end, f"{len(found)} replicas, expected {replicas}"
            time.sleep(0.5)
        return found

    def known(self) -> set[str]:
        """The replicas that answer the door."""
        text = self.client.get("/metrics").text
        return set(re.findall(r'^trimode_engine_live\{replica="(\w+)"\}', text, re.MULTILINE))

    def trails(self) -> list[Path]:
        assert self.settings.audit is not None
        return sorted(self.settings.audit.parent.glob("audit-*.jsonl"))

    @contextmanager
    def traffic(self, clients: int, asked: dict[str, Any]) -> Generator[list[Answer]]:
        """Keeps so many requests alive while the block runs; all have ended behind it."""
        ended, answers = threading.Event(), list[Answer]()

        def keep(number: int) -> None:
            while not ended.is_set():
                answers.append(self.ask(asked, f"traffic {number}"))

        with ThreadPoolExecutor(clients) as pool:
            futures = [pool.submit(keep, number) for number in range(clients)]
            try:
                yield answers
            finally:
                ended.set()
                for future in futures:
                    future.result(600)


def small(**more: Any) -> ClusterSettings:
    return ClusterSettings(cpus=0.5, threads=1, busy=BUSY, health=2.0, **more)


@pytest.fixture(scope="module")
def started() -> Generator[None]:
    """Ray on this machine. It gives itself 30 s to start, which is written into it and too few where others work too:
    it is tried again, once the processes of the attempt have ended, which Ray leaves until this one ends."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            joined(small(replicas=3))
            break
        except Exception:
            ray.shutdown()
            for left in import_module("psutil").Process().children(recursive=True):  # Ray brings it
                left.kill()
            if time.monotonic() > end:
                raise
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def cluster(started: None, tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:  # noqa: ARG001
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    settings = ServerSettings(port=0, audit=path, content=True, drain=60)
    with running(settings, small(replicas=2)) as url, httpx.Client(base_url=url, timeout=600) as client:
        yield Cluster(client, settings, asked=small(replicas=2))


@pytest.fixture(scope="module")
def alone(reference: Engine, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, CallRecord]]:
    """Each request's text and record by one engine in this process, one after another."""
    path = tmp_path_factory.mktemp("alone") / "audit.jsonl"
    with client_of(reference, audit=path, content=True) as client:
        answers = [
            answer_of(str(number), client.post("/v1/chat/completions", json=body(number))) for number in range(REQUESTS)
        ]
    assert all(one.whole for one in answers)
    return [(one.text, record) for one, record in zip(answers, records(read_audit(path)), strict=True)]


def merged_by(trails: Sequence[Path], out: Path) -> dict[str, CallRecord]:
    """The merged records by the request that was accepted, each of which is there once."""
    ran = CliRunner().invoke(command_line, ["audit", "merge", *map(str, trails), "--out", str(out), "--json"])
    assert ran.exit_code == 0, ran.output
    assert verify(out) == []
    found = [(record.served.request, record) for record in records(read_audit(out)) if record.served is not None]
    assert len(dict(found)) == len(found) == json.loads(ran.stdout)["calls"]
    return dict(found)


def check_killed(cluster: Cluster, alone: list[tuple[str, CallRecord]], replicas: int, out: Path) -> None:
    """Kills one of so many replicas amid the requests: none is lost, no token differs, each has one record."""
    cluster.scale(replicas)
    pids, killed = {one.replica: one.pid for one in cluster.replicas()}, list[str]()

    def kill(replica: str) -> None:
        killed.append(replica)
        os.kill(pids[replica], signal.SIGKILL)

    def one(number: int) -> Answer:
        session = None if number % 5 == 0 else f"agent {number % 11}"
        return cluster.ask(body(number), session, kill if number == KILLING else lambda _: None)

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = [*pool.map(one, range(REQUESTS))]
    assert [one for one in answers if not one.whole] == []
    assert [one.text for one in answers] == [text for text, _ in alone]
    attempts = Counter(one.served["attempt"] for one in answers)
    print(f"{replicas} replicas, one killed: attempts {dict(attempts)}")
    assert answers[KILLING].served["why"].startswith(f"decoded again, {killed[0]} was lost; ")
    assert all("decoded again, " in one.served["why"] for one in answers if one.served["attempt"] > 1)
    found = merged_by(cluster.trails(), out)
    tokens = [found[one.request].token_ids for one in answers]
    assert tokens == [record.token_ids for _, record in alone]
    cluster.until(replicas)


def test_one_of_two_replicas_is_killed_and_no_request_is_lost(
    cluster: Cluster, alone: list[tuple[str, CallRecord]], tmp_path: Path
) -> None:
    check_killed(cluster, alone, 2, tmp_path / "merged.jsonl")


def test_sessions_stay_at_home(cluster: Cluster) -> None:
    cluster.scale(2)
    homes: dict[str, set[str]] = {}
    for number in range(3 * 24):
        session = f"session {number % 24}"
        found = cluster.ask(body(number), session)
        assert found.served["why"] == "home of the session"
        homes.setdefault(session, set()).add(found.served["replica"])
    assert all(len(home) == 1 for home in homes.values())
    assert len(set.union(*homes.values())) == 2


def test_a_session_spills_under_load_with_a_receipt(cluster: Cluster, tmp_path: Path) -> None:
    cluster.scale(2)
    with ThreadPoolExecutor(4 * BUSY) as pool:
        answers = [*pool.map(lambda _: cluster.ask(long(), "one agent"), range(4 * BUSY))]
    assert len({one.text for one in answers}) == 1
    spilled = [one for one in answers if one.served["why"].startswith("spilled: the home ")]
    stayed = [one for one in answers if one.served["why"] == "home of the session"]
    assert spilled
    assert stayed
    assert {one.served["replica"] for one in spilled}.isdisjoint(one.served["replica"] for one in stayed)
    found = merged_by(cluster.trails(), tmp_path / "merged.jsonl")
    assert all(found[one.request].served.why == one.served["why"] for one in answers)  # type: ignore[union-attr]


def test_the_metrics_of_all_replicas_are_at_one_place(cluster: Cluster) -> None:
    cluster.scale(2)
    text = cluster.client.get("/metrics").text
    assert cluster.client.get("/v1/models").json()["data"][0]["id"] == "trimode-reference"
    assert cluster.client.get("/ready").status_code == 200
    assert len(cluster.client.get("/health").headers.get_list("x-request-id")) == 1
    for one in cluster.replicas():
        assert f'replica="{one.replica}"' in text
    assert "trimode_door_lost_total" in text


def test_a_client_that_leaves_ends_its_call(cluster: Cluster) -> None:
    cluster.scale(2)
    with cluster.client.stream("POST", "/v1/chat/completions", json=long()) as response:
        next(response.iter_bytes())
    end = time.monotonic() + PATIENCE
    while re.search(r"^trimode_engine_live\{.*\} [1-9]", cluster.client.get("/metrics").text, re.MULTILINE):
        assert time.monotonic() < end
        time.sleep(0.1)
    cancelled = r'^trimode_calls_total\{.*outcome="cancelled".*\} 1\.0'
    assert re.search(cancelled, cluster.client.get("/metrics").text, re.MULTILINE)


def test_replicas_that_are_replaced_end_what_they_began(cluster: Cluster) -> None:
    cluster.scale(2)
    old = {one.replica for one in cluster.replicas()}
    with cluster.traffic(6, long()) as answers:
        cluster.scale(1)
    assert [one for one in answers if not one.whole] == []
    assert {one.served["attempt"] for one in answers} == {1}
    assert {one.served["replica"] for one in answers} == old | {one.replica for one in cluster.replicas()}


def test_replicas_come_with_load_and_go_without(cluster: Cluster) -> None:
    scaling: dict[str, Any] = {"replicas": 1, "most": 2, "target": 2.0, "up_after": 1.0, "down_after": 3.0}
    cluster.scale(**scaling)
    asked = chat(response_format=held_to(WORDS), max_completion_tokens=120)
    with cluster.traffic(8, asked) as answers:
        cluster.until(2)
    with cluster.traffic(1, asked) as later:
        cluster.until(1)
    assert [one for one in (*answers, *later) if not one.whole] == []
    assert {one.served["attempt"] for one in (*answers, *later)} == {1}


def test_a_router_of_rays_keeps_sessions_too(cluster: Cluster) -> None:
    cluster.scale(2, router="ray-session")
    answers = [cluster.ask(body(number), f"session {number % 4}") for number in range(12)]
    assert {one.served["why"] for one in answers} == {"chosen by a router of Ray's"}
    homes = [{one.served["replica"] for one in answers[at::4]} for at in range(4)]
    assert all(len(home) == 1 for home in homes)


def test_rays_router_by_prefix_sends_what_begins_alike_to_one_replica(cluster: Cluster) -> None:
    cluster.scale(2, router="ray-prefix")
    texts = [" ".join([word] * 60) for word in ("apples", "boxes", "tables", "chairs")]
    asked = [
        chat(messages=[{"role": "user", "content": f"{text} {number}?"}], max_completion_tokens=4)
        for number in range(3)
        for text in texts
    ]
    answers = [cluster.ask(one) for one in asked]
    places = [{one.served["replica"] for one in answers[at::4]} for at in range(4)]
    assert all(len(place) == 1 for place in places)
    assert len(set.union(*places)) == 2
    assert {one.served["why"] for one in answers} == {"chosen by a router of Ray's"}
    assert cluster.client.get("/v1/models").status_code == 200
    assert cluster.client.post("/tokenize", json={"prompt": "Hello"}).status_code == 200


def test_rays_router_by_load(cluster: Cluster) -> None:
    cluster.scale(2, router="ray")
    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(lambda _: cluster.ask(long()), range(8))]
    assert [one for one in answers if not one.whole] == []
    assert len({one.served["replica"] for one in answers}) == 2


def test_one_of_three_replicas_is_killed_and_no_request_is_lost(
    cluster: Cluster, alone: list[tuple[str, CallRecord]], tmp_path: Path
) -> None:
    check_killed(cluster, alone, 3, tmp_path / "merged.jsonl")


def test_the_trails_of_all_replicas_have_exactly_the_accepted_calls(cluster: Cluster, tmp_path: Path) -> None:
    trails = cluster.trails()
    assert len(trails) > 4
    assert [problem for path in trails for problem in verify(path)] == []
    found = merged_by(trails, tmp_path / "merged.jsonl")
    assert sorted(name for name, one in found.items() if one.error is None) == sorted(cluster.accepted)
    assert sum(one.error is not None for one in found.values()) == 1  # whose client left
