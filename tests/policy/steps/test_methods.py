"""Steps as methods, docstrings as prompts, and tools that may wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import trimode as tm
from trimode.testing import FakeEngine


class Agent:
    def __init__(self, tone: str) -> None:
        self.tone = tone

    @tm.step("prose", max_tokens=30)
    def say(self, facts: str, times: int = 2) -> str:
        """Tell the user: {facts}"""
        ...

    @tm.step
    async def toned(self, facts: str) -> str:
        """In a {self.tone} tone: {facts}"""
        ...

    @tm.step("prose")
    def asked(self, what: str) -> str:
        """Documentation with a {brace, which is no prompt."""
        return tm.ask(f"{self.tone}: {what}")

    @tm.step("prose")
    def _make(cls, what: str) -> str:
        """Make {what}."""
        ...

    made: Any = classmethod(cast(Any, _make))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def prompt(engine: FakeEngine) -> Any:
    return engine.calls[-1].messages[-1]["content"]


def test_self_is_no_part_of_the_prompt(engine: FakeEngine) -> None:
    kind, grim = Agent("kind"), Agent("grim")
    with tm.session(engine, policy=tm.Policy()):
        assert kind.say("sun") == "say"
        assert prompt(engine) == "Tell the user: sun\ntimes: 2"
        assert kind.say.result("rain", times=3).plan.mode == "ar"
        assert prompt(engine) == "Tell the user: rain\ntimes: 3"
        kind.say.options(seed=4)("wind")
        assert engine.calls[-1].plan.settings.seed == 4
        assert [event.text for event in kind.say.stream("snow")][-1] == ""
        Agent.say(grim, "fog")
        assert prompt(engine) == "Tell the user: fog\ntimes: 2"
        asyncio.run(grim.toned("hail"))
        assert prompt(engine) == "In a grim tone: hail"
        kind.asked("sleet")
        assert prompt(engine) == "kind: sleet"
        Agent.made("ice")
        assert prompt(engine) == "Make ice."


def test_an_argument_of_a_plain_function_may_be_called_self(engine: FakeEngine) -> None:
    @tm.step
    def about(self: str) -> str:
        """Describe."""
        ...

    with tm.session(engine, policy=tm.Policy()):
        about("me")
    assert prompt(engine) == "Describe.\nself: me"


def test_a_method_keeps_its_name_and_words() -> None:
    step = Agent("x").say
    assert (step.__name__, step.__doc__, step.spec.name) == ("say", "Tell the user: {facts}", "say")  # type: ignore[attr-defined]


def stray(word: str) -> str:
    """Answer as {"word": 1}: {word}"""
    ...


def unknown(word: str) -> str:
    """{wrod}"""
    ...


async def later_unknown(word: str) -> str:
    """{wrod}"""
    ...


def unclosed(word: str) -> str:
    """{word"""
    ...


def nested(word: str) -> str:
    """{word:{width}}"""
    ...


@pytest.mark.parametrize("function", [stray, unknown, later_unknown, unclosed, nested])
def test_places_are_checked_when_the_step_is_defined(function: Callable[..., Any]) -> None:
    with pytest.raises(tm.StepError, match=r"write \{\{ and \}\} for braces"):
        tm.step(function)


def test_doubled_braces_and_formats_are_prompts(engine: FakeEngine) -> None:
    @tm.step
    def shaped(price: float, words: list[str]) -> str:
        """Answer as {{"price": 1}}: {price:.2f} {words[0]!r}"""
        ...

    with tm.session(engine, policy=tm.Policy()):
        shaped(2.0, ["a"])
        assert prompt(engine) == "Answer as {\"price\": 1}: 2.00 'a'"
        with pytest.raises(tm.StepError, match="cannot be filled in: IndexError"):
            shaped(2.0, [])


class Runs:
    """Tools that count how often they ran."""

    def __init__(self) -> None:
        self.count = 0

    def now(self, word: str) -> str:
        """Now."""
        self.count += 1
        return word

    async def later(self, word: str) -> str:
        """Later."""
        await asyncio.sleep(0)
        self.count += 1
        return word

    def promised(self, word: str) -> Any:
        """A plain function that returns something to await."""
        return self.later(word)


@pytest.mark.parametrize("name", ["now", "later", "promised"])
def test_aexecute_runs_tools_of_both_kinds_once(name: str, spans: InMemorySpanExporter) -> None:
    runs = Runs()
    call = tm.ToolCall(name=name, arguments={"word": "x"})
    tools = [runs.now, runs.later, runs.promised]
    assert asyncio.run(tm.aexecute(call, tools, call_id="c1")) == "x"
    assert runs.count == 1
    (span,) = spans.get_finished_spans()
    assert (span.name, dict(span.attributes or {})["gen_ai.tool.call.id"]) == (f"execute_tool {name}", "c1")


def test_an_async_tool_from_sync_code_runs_nothing() -> None:
    runs = Runs()
    call = tm.ToolCall(name="later", arguments={"word": "x"})
    with pytest.raises(tm.ToolError, match=r"await tm\.aexecute"):
        tm.execute(call, [runs.later])
    assert runs.count == 0

    async def inside() -> Any:
        return await tm.execute(call, [runs.later])

    assert asyncio.run(inside()) == "x"
    assert runs.count == 1


def test_formats_and_guarantee_reach_a_step(engine: FakeEngine) -> None:
    shoe = {"type": "string", "format": "shoe-size", "maxLength": 3}
    make = tm.step("json", schema=shoe)
    with pytest.raises(tm.UnsupportedKeyword, match="format"):
        tm.step("json", schema=shoe, formats="assert")(unformatted)
    with tm.session(engine, policy=tm.Policy()):
        noted = make(unformatted).result()
    assert any("shoe-size" in note for note in noted.notes)
    with pytest.raises(tm.UnsupportedKeyword):
        engine.generate("x", schema=shoe, formats="assert")


def unformatted() -> str:
    """A shoe."""
    ...
