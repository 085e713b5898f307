"""Sessions in threads and tasks at once: no span, record, setting or prompt of one ever stands in another.

Every worker does each of its acts in an order of its own: steps under `using`, streams read and left, gathers,
cancelled tasks, failed calls, tools that call the model, sessions inside of sessions. All of them share one engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import trimode as tm
from trimode.policy.audit.trail import read_audit, records, verify
from trimode.policy.calls.engine import Engine
from trimode.policy.calls.scope import current_scope, overrides

THREADS, LOOPS, TASKS = 3, 2, 3
LONG: dict[str, Any] = {"schema": {"type": "string", "minLength": 300, "maxLength": 310}, "max_tokens": 400}


@tm.step("prose", max_tokens=3)
def say(word: str) -> str:
    """Say {word}."""
    ...


@tm.step("prose", max_tokens=3)
async def say_later(word: str) -> str:
    """Say {word}."""
    ...


@dataclass
class Worker:
    """A session's owner. `calls` and `tools` count what must be found of it; nothing else may be."""

    name: str
    seed: int
    engine: Engine
    folder: Path
    calls: int = 0
    tools: int = 0
    inner: list[Worker] = field(default_factory=list["Worker"])

    @property
    def trail(self) -> Path:
        return self.folder / self.name

    def session(self) -> contextlib.AbstractContextManager[tm.Session]:
        return tm.session(self.engine, policy=tm.Policy(), agent=self.name, trace=f"file:{self.trail}", content=True)

    def within(self) -> Worker:
        """The owner of a session inside of this one's."""
        self.inner.append(Worker(f"{self.name}.{len(self.inner)}", self.seed + 1000, self.engine, self.folder))
        return self.inner[-1]

    def prompt(self, **more: Any) -> dict[str, Any]:
        self.calls += 1
        return {"prompt": f"I am {self.name}.", "seed": self.seed, "max_tokens": 3, **more}

    def at_home(self) -> None:
        """Nothing of anybody else, nor of a call that is over, is in force here."""
        assert current_scope().agent == self.name
        assert not trace.get_current_span().get_span_context().is_valid
        assert overrides() == ()


def step(own: Worker) -> None:
    own.calls += 1
    with tm.using(seed=own.seed):
        say(own.name)


def stream(own: Worker) -> None:
    list(own.engine.stream(**own.prompt()))


def left_stream(own: Worker) -> None:
    for _ in own.engine.stream(**own.prompt(**LONG)):
        break


def failure(own: Worker) -> None:
    with pytest.raises(tm.PromptTooLong):
        own.engine.generate(**own.prompt(max_tokens=10**6))


def tool(own: Worker) -> None:
    def ask(word: str) -> str:
        assert trace.get_current_span().get_span_context().is_valid
        own.engine.generate(**own.prompt())
        return word

    own.tools += 1
    assert tm.execute_tool(ask, tm.ToolCall(name="ask", arguments={"word": own.name})) == own.name


def nested(own: Worker) -> None:
    inner = own.within()
    with inner.session():
        step(inner)
        inner.at_home()
    step(own)


async def later(own: Worker) -> None:
    own.calls += 1
    with tm.using(seed=own.seed):
        await say_later(own.name)


async def gathered(own: Worker) -> None:
    await asyncio.gather(*(own.engine.agenerate(**own.prompt()) for _ in range(3)))


async def cancelled(own: Worker) -> None:
    task = asyncio.create_task(own.engine.agenerate(**own.prompt(**LONG)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def left_for_another_task_to_close(own: Worker) -> None:
    events = own.engine.astream(**own.prompt(**LONG))
    async for _ in events:
        break
    await asyncio.create_task(events.aclose())


async def streams_in_turns(own: Worker) -> None:
    """Two at once, each with its events between those of the other."""
    async with (
        contextlib.aclosing(own.engine.astream(**own.prompt())) as one,
        contextlib.aclosing(own.engine.astream(**own.prompt(**LONG))) as other,
    ):
        await anext(other)
        async for _ in one:
            await anext(other)


async def nested_later(own: Worker) -> None:
    inner = own.within()
    with inner.session():
        await later(inner)
        await gathered(inner)
        inner.at_home()
    await later(own)


ACTS: list[Callable[[Worker], None]] = [step, stream, left_stream, failure, tool, nested]
LATER: list[Callable[[Worker], Awaitable[None]]] = [
    later, gathered, cancelled, left_for_another_task_to_close, streams_in_turns, nested_later,
]  # fmt: skip


def in_thread(own: Worker) -> None:
    with own.session():
        for act in random.Random(own.seed).sample(ACTS, len(ACTS)):
            act(own)
            own.at_home()


async def in_task(own: Worker) -> None:
    with own.session():
        for act in random.Random(own.seed).sample(LATER, len(LATER)):
            await act(own)
            own.at_home()


def in_new_loop(own: Worker, workers: list[Worker]) -> None:
    async def together() -> None:
        with own.session():
            await asyncio.gather(*map(in_task, workers))
            own.at_home()

    asyncio.run(together())


def run(works: Sequence[Callable[[], None]]) -> list[BaseException]:
    """Each in a thread; what went wrong in any."""
    wrong: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def check(own: Worker, agents: dict[str, ReadableSpan], owned: dict[str, list[ReadableSpan]]) -> None:
    """All that the worker did stands under its agent and in its trail, and nothing else does."""
    mine = owned.get(own.name, [])
    kinds = Counter(span.name.split()[0] for span in mine)
    assert kinds["chat"] == own.calls
    assert kinds["execute_tool"] == own.tools
    sessions = {str((span.attributes or {})["trimode.session.id"]) for span in mine if span.name.startswith("chat ")}
    assert len(sessions) == (own.calls > 0)
    inside = [span.name.split()[1] for span in agents.values() if parent(span) == number(agents[own.name])]
    assert {one.name for one in own.inner} <= set(inside)
    kept = records(read_audit(own.trail)) if own.calls else []
    assert len(kept) == own.calls
    assert verify(own.trail) == [] if own.calls else not own.trail.exists()
    assert {record.agent for record in kept} <= {own.name}
    assert {record.session for record in kept} == sessions
    assert {record.sampling.seed for record in kept} <= {own.seed}
    for record in kept:
        assert f"{own.name}." in own.engine.tokenizer.decode(record.prompt_ids or ())


def number(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else int(span.parent.span_id)


def by_agent(found: dict[int, ReadableSpan]) -> dict[str, list[ReadableSpan]]:
    """Spans by the nearest agent above them."""
    owned: dict[str, list[ReadableSpan]] = {}
    for span in found.values():
        above = parent(span)
        while above is not None and not found[above].name.startswith("invoke_agent "):
            above = parent(found[above])
        owned.setdefault("" if above is None else found[above].name.split()[1], []).append(span)
    return owned


def test_nothing_leaks_between_sessions(reference: Engine, spans: InMemorySpanExporter, tmp_path: Path) -> None:
    def worker(name: str, seed: int) -> Worker:
        return Worker(name, seed, reference, tmp_path)

    threads = [worker(f"thread{at}", at) for at in range(THREADS)]
    loops = [worker(f"loop{at}", 50 + at) for at in range(LOOPS)]
    tasks = [[worker(f"task{at}.{more}.", 100 + 10 * at + more) for more in range(TASKS)] for at in range(LOOPS)]
    works = [partial(in_thread, own) for own in threads]
    works += [partial(in_new_loop, own, mine) for own, mine in zip(loops, tasks, strict=True)]
    outside = worker("outside", 0)
    with outside.session():
        assert run(works) == []
        outside.at_home()
    for own, mine in zip(loops, tasks, strict=True):
        own.inner = mine
    everyone = [outside, *threads, *loops, *(own for mine in tasks for own in mine)]
    everyone += [inner for own in everyone if own not in loops for inner in own.inner]
    found = {number(span): span for span in spans.get_finished_spans()}
    agents = {span.name.split()[1]: span for span in found.values() if span.name.startswith("invoke_agent ")}
    owned = by_agent(found)
    assert set(agents) == {own.name for own in everyone}
    assert set(owned) <= {*agents, ""}
    assert {span.name.split()[0] for span in owned[""]} == {"invoke_agent"}, "nothing stands outside"
    assert sum(own.calls for own in everyone) > 80
    for own in everyone:
        check(own, agents, owned)


ENDS_AMID_A_CALL = """
import subprocess
import sys
import threading
import trimode as tm
engine = tm.Engine.load(kernels="torch")
deep = threading.Event()
def call():
    with tm.session(engine, trace="file:" + {path!r}):
        for piece in engine.stream("Once upon a time", max_tokens=400):
            deep.set()
threading.Thread(target=call, daemon=True).start()
deep.wait()
"""


def test_a_process_may_end_amid_a_call(tmp_path: Path) -> None:
    """The interpreter used to stop the engine's thread inside a tensor function, which aborts the process."""
    path = str(tmp_path / "audit.jsonl")
    ended = subprocess.run([sys.executable, "-c", ENDS_AMID_A_CALL.format(path=path)], capture_output=True, timeout=120)
    assert (ended.returncode, b"terminate" in ended.stderr) == (0, False), ended.stderr.decode()
