"""What people pass by mistake, and what they should hear: an error of ours, or a note in the result.

Each entry is a name, what is called (with a fake engine and a real one), and the error's class or a part of the note.
"""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from pydantic import BaseModel

import trimode as tm
from trimode.testing import FakeEngine

Run = Callable[[Any, Any], Any]
TALK = [{"role": "user", "content": "Hello"}]
SPOKE = {"role": "assistant", "content": "x"}
DONE = {"role": "tool", "tool_call_id": "c1", "content": "x"}
SURROGATE = "half \ud800 a pair"
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
COUNT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
UNKNOWN_FORMAT = {"type": "string", "format": "shoe-size"}


def weather(city: str = "Rome") -> str:
    """The weather."""
    return city


async def later(city: str = "Rome") -> str:
    """The weather, later."""
    return city


def lost(city: Nowhere) -> str:  # type: ignore[name-defined]  # noqa: F821
    """A tool whose annotation nobody finds."""
    return str(city)


class Order(BaseModel):
    item: str


@dataclass(frozen=True)
class Bad:
    """`expected`: an error's class, or words of a note."""

    name: str
    run: Run
    expected: type[Exception] | str


def _talk(*messages: Any, **words: Any) -> Run:
    return lambda fake, _: fake.generate(messages=list(messages), **words)


def _say(prompt: Any = "Hello", **words: Any) -> Run:
    return lambda fake, _: fake.generate(prompt, **words)


def _said(**message: Any) -> Run:
    return _talk(message)


def _load(**words: Any) -> Run:
    return lambda *_: tm.Engine.load(**words)


def _session(**words: Any) -> Run:
    def run(fake: Any, _: Any) -> Any:
        with tm.session(**{"engine": fake, **words}):
            return fake.generate("x")

    return run


def _step(make: Callable[[], Any], *args: Any) -> Run:
    """A step, defined and called in a session."""

    def run(fake: Any, _: Any) -> Any:
        with tm.session(fake, policy=tm.Policy()):
            return make().result(*args)

    return run


def _stepped(function: Any, *args: Any, **words: Any) -> Run:
    return _step(lambda: tm.step(**words)(function), *args)


def _kind(kind: Any, function: Any, *args: Any, **words: Any) -> Run:
    return _step(lambda: tm.step(kind, **words)(function), *args)


def _call(call: Any, tools: Any) -> Run:
    return lambda *_: tm.execute(call, tools)


def text() -> str:
    """Say something."""
    ...


def order() -> Order:
    """Order something."""
    ...


def numbers() -> Literal[1, 2]:
    """Choose."""
    ...


def stray(word: str) -> str:
    """Answer as {"word": ...}: {word}"""
    ...


def unclosed(word: str) -> str:
    """A brace { that nothing closes."""
    ...


def unknown(word: str) -> str:
    """{wrod}"""
    ...


def conversion(word: str) -> str:
    """{word!x}"""
    ...


def shaped(word: str) -> str:
    """{word:>>>}"""
    ...


def attribute(word: str) -> str:
    """{word.length}"""
    ...


def positional(word: str) -> str:
    """{}"""
    ...


def undocumented(word: str) -> str: ...


def returns_bytes() -> Any:
    return b"x"


def returns_dict() -> str:
    return {"role": "user", "content": "x"}  # type: ignore[return-value]


def returns_words() -> Any:
    return ["a", "b"]


def returns_surrogate() -> str:
    return SURROGATE


def broken_annotation() -> "list[":  # type: ignore  # noqa: F722
    """x"""


async def _astream(engine: Any, **words: Any) -> Any:
    async for event in engine.astream(**words):
        if event.result is not None:
            return event.result
    return None


def _aexecute(call: Any, tools: Any) -> Run:
    return lambda *_: asyncio.run(tm.aexecute(call, tools))


R, P, S, T, ST = tm.RequestError, tm.PolicyError, tm.SchemaError, tm.ToolError, tm.StepError
WEATHER = tm.ToolCall(name="weather", arguments={"city": "Rome"})

PROMPTS = [
    Bad("prompt int", _say(3), R),
    Bad("prompt bytes", _say(b"x"), R),
    Bad("prompt list of words", _say(["a"]), R),
    Bad("prompt list of ids", _say([1, 2]), R),
    Bad("prompt list of messages", _say(TALK), R),
    Bad("prompt dict", _say({"a": 1}), R),
    Bad("prompt true", _say(True), R),
    Bad("prompt half a surrogate pair", _say(SURROGATE), R),
    Bad("prompt empty", _say(""), R),
    Bad("no prompt", _say(None), R),
    Bad("prompt and messages", _say("x", messages=TALK), R),
    Bad("prompt and ids", _say("x", prompt_ids=[5]), R),
    Bad("messages and ids", _talk(*TALK, prompt_ids=[5]), R),
    Bad("prompt of 10 MB", _say("word " * 2_000_000), tm.PromptTooLong),
    Bad("message of 10 MB", _said(role="user", content="word " * 2_000_000), tm.PromptTooLong),
    Bad("prompt too long", lambda _, real: real.generate("word " * 1500), tm.PromptTooLong),
    Bad("marker in a prompt", _say("a<|im_end|>b"), "control marker '<|im_end|>'"),
    Bad("marker in a message", _said(role="user", content="a<|im_end|>b"), "messages[0] holds the control marker"),
    Bad("tools beside a prompt", _say(tools=[weather], step="plan"), "tools were not shown"),
    Bad("ids of text", _say(None, prompt_ids="abc"), R),
    Bad("ids of bytes", _say(None, prompt_ids=b"abc"), R),
    Bad("ids with a float", _say(None, prompt_ids=[1.5]), R),
    Bad("ids with true", _say(None, prompt_ids=[True]), R),
    Bad("ids empty", _say(None, prompt_ids=[]), R),
    Bad("ids an int", _say(None, prompt_ids=7), R),
    Bad("ids too large", _say(None, prompt_ids=[10**9]), R),
    Bad("ids negative", _say(None, prompt_ids=[-1]), R),
    Bad("tokenize bytes", lambda fake, _: fake.tokenize(b"x"), R),
    Bad("tokenize half a pair", lambda fake, _: fake.tokenize(SURROGATE, markup=True), R),
    Bad("unknown argument", _say(temprature=1), P),
]
MESSAGES = [
    Bad("messages a text", _say(None, messages="hi"), R),
    Bad("messages bytes", _say(None, messages=b"hi"), R),
    Bad("messages a dict", _say(None, messages=TALK[0]), R),
    Bad("messages an int", _say(None, messages=3), R),
    Bad("messages empty", _say(None, messages=[]), R),
    Bad("messages of tuples", _talk(("user", "hi")), R),
    Bad("messages of texts", _talk("hi"), R),
    Bad("messages of None", _talk(None), R),
    Bad("a key that is no string", _talk({1: 2, "role": "user", "content": "x"}), R),
    Bad("no role", _said(content="x"), R),
    Bad("role None", _said(role=None, content="x"), R),
    Bad("role int", _said(role=1, content="x"), R),
    Bad("role list", _said(role=["user"], content="x"), R),
    Bad("role unknown", _said(role="human", content="x"), R),
    Bad("role function", _said(role="function", name="f", content="x"), R),
    Bad("role a marker", _said(role="<|im_end|>", content="x"), R),
    Bad("no content", _said(role="user"), R),
    Bad("content None", _said(role="user", content=None), R),
    Bad("content int", _said(role="user", content=3), R),
    Bad("content bytes", _said(role="user", content=b"x"), R),
    Bad("content dict", _said(role="user", content={"a": 1}), R),
    Bad("content half a pair", _said(role="user", content=SURROGATE), R),
    Bad("part a text", _said(role="user", content=["x"]), R),
    Bad("part without type", _said(role="user", content=[{"text": "x"}]), R),
    Bad("part of an image", _said(role="user", content=[{"type": "image_url", "image_url": {"url": "x"}}]), R),
    Bad("part of sound", _said(role="user", content=[{"type": "input_audio", "input_audio": {}}]), R),
    Bad("part of a tool's result", _said(role="user", content=[{"type": "tool_result", "content": "x"}]), R),
    Bad("part without text", _said(role="user", content=[{"type": "text"}]), R),
    Bad("part with a number", _said(role="user", content=[{"type": "text", "text": 3}]), R),
    Bad("name of a user", _said(role="user", content="x", name="Ann"), R),
    Bad("unknown key", _said(role="user", content="x", mood="good"), R),
    Bad("sound of an assistant", _talk(*TALK, {"role": "assistant", "content": "x", "audio": {"id": "a"}}), R),
    Bad("links of an answer", _talk(*TALK, {"role": "assistant", "content": "x", "annotations": [{"url": "x"}]}), R),
    Bad("refusal and content", _talk(*TALK, {"role": "assistant", "content": "x", "refusal": "no"}), R),
    Bad("unknown kind", _talk(*TALK, {"role": "assistant", "content": "x", "kind": "dream"}), R),
    Bad("schema of a message a text", _talk(*TALK, {"role": "assistant", "content": "x", "schema": "x"}), R),
    Bad("calls of a user", _said(role="user", content="x", tool_calls=[CALL]), R),
    Bad("calls a dict", _talk(*TALK, {"role": "assistant", "content": None, "tool_calls": CALL}), R),
    Bad("call a text", _talk(*TALK, {"role": "assistant", "content": None, "tool_calls": ["x"]}), R),
    Bad("call of another type", _talk(*TALK, {"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}), R),
    Bad("call without function", _talk(*TALK, {"role": "assistant", "tool_calls": [{"id": "c"}]}), R),
    Bad("call without name", _talk(*TALK, {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}), R),
    Bad(
        "arguments no JSON",
        _talk(*TALK, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{a"}}]}),
        R,
    ),
    Bad(
        "arguments a list",
        _talk(*TALK, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}),
        R,
    ),
    Bad(
        "arguments that are no JSON value",
        _talk(*TALK, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": {1}}}}]}),
        R,
    ),
    Bad("call id int", _talk(*TALK, {"role": "assistant", "tool_calls": [{**CALL, "id": 3}]}), R),
    Bad("answer to no call", _talk(*TALK, {"role": "tool", "tool_call_id": "c9", "content": "x"}), R),
    Bad(
        "call answered twice",
        _talk(
            *TALK,
            {"role": "assistant", "tool_calls": [CALL]},
            *[{"role": "tool", "tool_call_id": "c1", "content": "x"}] * 2,
        ),
        R,
    ),
    Bad(
        "answer of another tool",
        _talk(
            *TALK,
            {"role": "assistant", "tool_calls": [CALL]},
            {**DONE, "name": "f"},
        ),
        R,
    ),
    Bad("call id of a user", _said(role="user", content="x", tool_call_id="c1"), R),
    Bad("late system message", _talk(*TALK, {"role": "system", "content": "x"}), R),
    Bad("developer", _talk({"role": "developer", "content": "x"}, *TALK), "role 'developer' were shown as"),
    Bad("go on with a user's message", _talk(*TALK, continue_final_message=True), R),
    Bad("go on with a prompt", _say(continue_final_message=True), R),
    Bad("go on with nothing", _talk(*TALK, {"role": "assistant", "content": ""}, continue_final_message=True), R),
    Bad("go on: a word", _talk(*TALK, continue_final_message="yes"), R),
    Bad(
        "go on under a schema",
        _talk(*TALK, SPOKE, continue_final_message=True, schema=COUNT),
        R,
    ),
]
SETTINGS = [
    Bad("max_tokens true", _say(max_tokens=True), P),
    Bad("max_tokens text", _say(max_tokens="9"), P),
    Bad("max_tokens float", _say(max_tokens=9.5), P),
    Bad("max_tokens 0", _say(max_tokens=0), R),
    Bad("max_tokens negative", _say(max_tokens=-1), R),
    Bad("max_tokens list", _say(max_tokens=[1]), P),
    Bad("max_tokens of thousands", lambda _, real: real.generate("x", max_tokens=10**6), tm.PromptTooLong),
    Bad("temperature text", _say(temperature="hot"), P),
    Bad("temperature true", _say(temperature=True), P),
    Bad("temperature nan", _say(temperature=float("nan")), R),
    Bad("temperature negative", _say(temperature=-1), R),
    Bad("top_p 2", _say(top_p=2.0), R),
    Bad("top_p false", _say(top_p=False), P),
    Bad("top_k negative", _say(top_k=-1), R),
    Bad("top_k float", _say(top_k=1.5), P),
    Bad("seed negative", _say(seed=-1), R),
    Bad("seed true", _say(seed=True), P),
    Bad("seed numpy float", _say(seed=np.float64(1.0)), P),
    Bad("exact 1", _say(exact=1), P),
    Bad("exact numpy", _say(exact=np.True_), P),
    Bad("deadline 0", _say(deadline=0), P),
    Bad("deadline text", _say(deadline="soon"), P),
    Bad("stop int", _say(stop=3), P),
    Bad("stop of ints", _say(stop=[1]), P),
    Bad("stop empty", _say(stop=""), R),
    Bad("stop bytes", _say(stop=b"x"), P),
    Bad("mode unknown", _say(mode="turbo"), P),
    Bad("mode int", _say(mode=3), P),
    Bad("mode list", _say(mode=["ar"]), P),
    Bad("guarantee unknown", _say(guarantee="maybe"), P),
    Bad("retries negative", _say(retries=-1), P),
    Bad("retries without a check", _say(retries=3), "retries=3 has no part"),
    Bad("step unknown", _say(step="dream"), P),
    Bad("step list", _say(step=["plan"]), P),
    Bad("block_length of ar", _say(mode="ar", block_length=8), "block_length=8 has no part in mode 'ar'"),
    Bad("threshold of ar", _say(mode="ar", threshold=0.5), "threshold=0.5 has no part in mode 'ar'"),
    Bad("rows of linear_spec", _say(mode="linear_spec", rows=2), "rows=2 has no part in mode 'linear_spec'"),
    Bad("threshold of quadratic_spec", _say(mode="quadratic_spec", threshold=0.5), "has no part in mode"),
    Bad("selection of ar", _say(mode="ar", selection="vendor"), P),
    Bad("block_length 1", _say(mode="linear_spec", block_length=1), R),
    Bad("block_length true", _say(mode="linear_spec", block_length=True), P),
    Bad("diffusion in an exact call", _say(mode="diffusion", exact=True), P),
    Bad("thinking without room", _say(max_thinking_tokens=9, max_tokens=5), R),
]
SCHEMAS = [
    Bad("tools a function", _say(tools=weather), S),
    Bad("tools a text", _say(tools="weather"), S),
    Bad("tools a dict", _say(tools={"name": "f", "parameters": {}}), S),
    Bad("tools an int", _say(tools=3), S),
    Bad("tools a class", _say(tools=Order), S),
    Bad("tools of None", _say(tools=[None]), S),
    Bad("tool without a name", _say(tools=[{"parameters": {}}]), S),
    Bad("tool of a lost annotation", _say(tools=[lost]), S),
    Bad("two tools of a name", _say(tools=[weather, weather]), S),
    Bad("tool_call without tools", _say(step="tool_call"), ST),
    Bad("tool_call of a schema and tools", _say(step="tool_call", tools=[weather], schema=COUNT), ST),
    Bad("tools beside a schema", _talk(*TALK, tools=[weather], schema=COUNT), "held to the schema beside them"),
    Bad("schema a text", _say(schema="int"), S),
    Bad("schema an int", _say(schema=3), S),
    Bad("schema False", _say(schema=False), S),
    Bad("schema of a wrong type", _say(schema={"type": "whole"}), S),
    Bad("schema empty list", _say(schema=[]), S),
    Bad("schema that nothing fits", _say(schema={"type": "integer", "minimum": 2, "maximum": 1}), S),
    Bad("schema half a pair", _say(schema={"const": "\ud800"}), S),
    Bad("formats without a schema", _say(formats="assert"), S),
    Bad("formats unknown", _say(schema=COUNT, formats="maybe"), S),
    Bad("formats asserted", _say(schema=UNKNOWN_FORMAT, formats="assert"), S),
    Bad("formats of a regex", _say(schema=tm.Regex("a+"), formats="assert"), S),
    Bad("stop beside a schema", _say(schema=COUNT, stop="x"), R),
    Bad("no room for the schema", _say(schema=COUNT, max_tokens=1), S),
    Bad("broken regex", lambda *_: tm.Regex("("), S),
    Bad("choice a text", lambda fake, _: fake.choice("yes", "x"), R),
    Bad("choice of bytes", lambda fake, _: fake.choice(b"yes", "x"), R),
    Bad("choice None", lambda fake, _: fake.choice(None, "x"), R),
    Bad("choice of ints", lambda fake, _: fake.choice([1, 2], "x"), R),
    Bad("choice of lists", lambda fake, _: fake.choice([["a"]], "x"), R),
    Bad("choice empty", lambda fake, _: fake.choice([], "x"), R),
    Bad("choice of an empty text", lambda fake, _: fake.choice(["a", ""], "x"), R),
    Bad("choice of equals", lambda fake, _: fake.choice(["a", "a"], "x"), R),
    Bad("choice half a pair", lambda fake, _: fake.choice(["a", SURROGATE], "x"), R),
    Bad("choice without a prompt", lambda fake, _: fake.choice(["a", "b"]), R),
    Bad("choice under a temperature", _say(schema={"enum": ["a", "b"]}, step="choice", temperature=0.5), "in a choice"),
    Bad("choice with a block_length", _say(schema={"enum": ["a", "b"]}, step="choice", block_length=4), "in a choice"),
    Bad("infill of bytes", lambda _, real: real.infill(b"a", "b"), R),
    Bad("infill before bytes", lambda _, real: real.infill("a", b"b"), R),
    Bad("infill before nothing", lambda _, real: real.infill("a", ""), R),
    Bad("infill before 10 MB", lambda _, real: real.infill("a", "word " * 2_000_000), R),
    Bad("infill of true tokens", lambda _, real: real.infill("a", "b", True), P),
]
ENGINES = [
    Bad("kv_bytes negative", _load(kv_bytes=-1), R),
    Bad("kv_bytes text", _load(kv_bytes="1GB"), R),
    Bad("kv_bytes true", _load(kv_bytes=True), R),
    Bad("queue negative", _load(queue=-1), R),
    Bad("queue float", _load(queue=1.5), R),
    Bad("dtype unknown", _load(dtype="float8"), R),
    Bad("dtype list", _load(dtype=["float32"]), R),
    Bad("device unknown", _load(device="gpu9"), R),
    Bad("device int", _load(device=1.5), R),
    Bad("kernels unknown", _load(kernels="fast"), R),
    Bad("kernels list", _load(kernels=["torch"]), R),
    Bad("quantize unknown", _load(quantize="int3"), R),
    Bad("graphs text", _load(graphs="yes"), R),
    Bad("progress text", _load(progress="yes"), R),
    Bad("source int", _load(source=3), tm.CheckpointError),
    Bad("source nowhere", _load(source="/no/such/place"), tm.CheckpointError),
    Bad("pickle", lambda fake, _: pickle.dumps(fake), R),
    Bad("pickle a real one", lambda _, real: pickle.dumps(real), R),
    Bad("copy", lambda _, real: copy.copy(real), R),
    Bad("deepcopy", lambda _, real: copy.deepcopy(real), R),
    Bad("a script that fits nothing", lambda *_: FakeEngine({"generate": 3}).generate("x"), tm.TrimodeError),
    Bad("astream bytes", lambda fake, _: asyncio.run(_astream(fake, prompt=b"x")), R),
    Bad("agenerate bytes", lambda fake, _: asyncio.run(fake.agenerate(b"x")), R),
    Bad("achoice text", lambda fake, _: asyncio.run(fake.achoice("yes", "x")), R),
    Bad(
        "stream retried",
        lambda fake, _: list(fake.stream("x", guarantee="checked", retries=2))[-1].result,
        "one attempt",
    ),
]
SESSIONS = [
    Bad("session of a name", _session(engine="reference"), P),
    Bad("session of None", _session(engine=None), P),
    Bad("session of a class", _session(engine=FakeEngine), P),
    Bad("trace list", _session(trace=["file:x"]), P),
    Bad("trace int", _session(trace=3), P),
    Bad("trace without a scheme", _session(trace="audit.jsonl"), P),
    Bad("trace without a path", _session(trace="file:"), P),
    Bad("policy int", _session(policy=3), P),
    Bad("policy dict", _session(policy={"kinds": {}}), P),
    Bad("policy unknown", _session(policy="fastest"), P),
    Bad("policy nowhere", _session(policy="/no/such.toml"), P),
    Bad("budget int", _session(budget=40), P),
    Bad("budget dict", _session(budget={"tokens": 40}), P),
    Bad("agent int", _session(agent=3), P),
    Bad("content text", _session(content="yes"), P),
    Bad("redact text", _session(redact="secret"), P),
    Bad("trim unknown", _session(trim="newest"), P),
    Bad("trim true", _session(trim=True), P),
    Bad("Budget of a text", lambda *_: tm.Budget(tokens="a"), P),  # type: ignore[arg-type]
    Bad("Budget of true", lambda *_: tm.Budget(passes=True), P),
    Bad("Budget of nan", lambda *_: tm.Budget(seconds=float("nan")), P),
    Bad("Budget of half a token", lambda *_: tm.Budget(tokens=1.5), P),  # type: ignore[arg-type]
    Bad("Budget negative", lambda *_: tm.Budget(tokens=-1), P),
    Bad("Policy of dicts", lambda *_: tm.Policy(kinds={"json": {"mode": "ar"}}), P),  # type: ignore[dict-item]
    Bad("Policy of a list", lambda *_: tm.Policy(kinds=["json"]), P),  # type: ignore[arg-type]
    Bad("using unknown", lambda *_: tm.using(speed=3).__enter__(), P),  # type: ignore[call-arg]
    Bad("using a text for a number", lambda *_: tm.using(seed="x").__enter__(), P),  # type: ignore[arg-type]
]
STEPS = [
    Bad("a dict runs", _call({"name": "weather", "arguments": {}}, [weather]), T),
    Bad("None runs", _call(None, [weather]), T),
    Bad("tools of a run a function", _call(WEATHER, weather), S),
    Bad("no such tool", _call(tm.ToolCall(name="fly", arguments={}), [weather]), tm.UnknownTool),
    Bad(
        "arguments of no type",
        _call(tm.ToolCall(name="weather", arguments={"city": 3}), [weather]),
        tm.InvalidArguments,
    ),
    Bad(
        "arguments no JSON value",
        _call(tm.ToolCall(name="weather", arguments={"city": object()}), [weather]),
        tm.InvalidArguments,
    ),
    Bad("an async tool from sync code", _call(tm.ToolCall(name="later", arguments={}), [later]), T),
    Bad("a lost annotation", _call(tm.ToolCall(name="lost", arguments={}), [lost]), (tm.TrimodeError)),
    Bad("aexecute a dict", _aexecute({"name": "weather"}, [weather]), T),
    Bad("aexecute no such tool", _aexecute(tm.ToolCall(name="fly", arguments={}), [weather]), tm.UnknownTool),
    Bad(
        "aexecute wrong arguments",
        _aexecute(tm.ToolCall(name="later", arguments={"city": 3}), [later]),
        tm.InvalidArguments,
    ),
    Bad("execute_tool a text", lambda *_: tm.execute_tool("weather", WEATHER), T),  # type: ignore[call-overload]
    Bad("execute_tool a dict", lambda *_: tm.execute_tool(weather, {"city": "x"}), T),  # type: ignore[call-overload]
    Bad("step of an unknown kind", _kind("dream", text), ST),
    Bad("step of an int", _kind(3, text), ST),
    Bad("step of a classmethod", lambda *_: tm.step(cast(Any, classmethod)(text)), ST),
    Bad("step of a staticmethod", lambda *_: tm.step(staticmethod(text)), ST),
    Bad("step of a text", lambda *_: tm.step("json")("x"), ST),  # type: ignore[call-overload]
    Bad("step name int", lambda *_: tm.step("json", name=3), ST),  # type: ignore[call-overload]
    Bad("step with an unknown setting", _stepped(text, speed=3), P),
    Bad("step max_tokens true", _stepped(text, max_tokens=True), P),
    Bad("step tools a function", _kind("plan", text, tools=weather), S),
    Bad("tool_call step without tools", _kind("tool_call", text), ST),
    Bad("tool_call step of another schema", _kind("tool_call", text, tools=[weather], schema=COUNT), ST),
    Bad("step formats unknown", _stepped(order, formats="maybe"), S),
    Bad("step formats asserted", _kind("json", text, schema=UNKNOWN_FORMAT, formats="assert"), S),
    Bad("step formats of text", _stepped(text, formats="assert"), ST),
    Bad("step choices a text", _kind("choice", text, choices="yes"), ST),
    Bad("step choices of ints", _kind("choice", text, choices=[1, 2]), ST),
    Bad("step choices of another kind", _kind("json", text, choices=["a"]), ST),
    Bad("choice step of numbers", _kind("choice", numbers), ST),
    Bad("braces of JSON in a docstring", _stepped(stray, "x"), ST),
    Bad("brace that nothing closes", _stepped(unclosed, "x"), ST),
    Bad("unknown name in a docstring", _stepped(unknown, "x"), ST),
    Bad("conversion in a docstring", _stepped(conversion, "x"), ST),
    Bad("format in a docstring", _stepped(shaped, "x"), ST),
    Bad("attribute in a docstring", _stepped(attribute, "x"), ST),
    Bad("place without a name", _stepped(positional, "x"), ST),
    Bad("no docstring", _stepped(undocumented, "x"), ST),
    Bad("step returns bytes", _stepped(returns_bytes), ST),
    Bad("step returns a dict", _stepped(returns_dict), ST),
    Bad("step returns words", _stepped(returns_words), R),
    Bad("step returns half a pair", _stepped(returns_surrogate), R),
    Bad("annotation that is none", _stepped(broken_annotation), ST),
    Bad("step outside a session", lambda *_: tm.step(text)(), ST),
    Bad("options unknown", lambda *_: tm.step(text).options(speed=3), P),  # type: ignore[call-arg]
    Bad("options true", lambda *_: tm.step(text).options(seed=True), P),
]
TABLE = [*PROMPTS, *MESSAGES, *SETTINGS, *SCHEMAS, *ENGINES, *SESSIONS, *STEPS]
