"""OpenAI's messages through templates of several makes: everything is shown, noted or refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import trimode as tm
from trimode.engine.models.tokenizer import Tokenizer
from trimode.policy.calls.call import Call
from trimode.policy.calls.prompts import PromptWriter
from trimode.policy.conversation.chat import conversation_of, tools_block
from trimode.policy.conversation.messages import checked_messages
from trimode.testing import FakeEngine

CALLS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<c>{{ c.function.name }} {{ c.function.arguments | tojson }}</c>{% endfor %}"
    "{% endfor %}{% for t in tools or [] %}<t>{{ t.function.name }}</t>{% endfor %}"
)
CALLS_OR_TEXT = (
    "{% for m in messages %}[{{ m.role }}]{% if 'tool_calls' in m %}{{ m.tool_calls[0].function.name }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)
TALKERS = "{% for m in messages if m.role in ('user', 'assistant') %}[{{ m.role }}]{{ m.content }}{% endfor %}"
NAMED = "{% for m in messages %}[{{ m.role }}{{ ' ' + m.name if m.name else '' }}]{{ m.content }}{% endfor %}"
TOOL = {"name": "weather", "description": "The weather.", "parameters": {"type": "object", "properties": {}}}


def call(name: str, id: str | None = None, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"type": "function", "function": function, **({"id": id} if id else {})}


def user(text: str = "Hi") -> dict[str, Any]:
    return {"role": "user", "content": text}


def spoken(content: str | None, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def answer(id: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content}


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


def written(engine: FakeEngine, template: str, *messages: Mapping[str, Any], tools: Any = ()) -> tuple[str, list[str]]:
    """What `template` makes of the messages, and the notes."""
    tokenizer = Tokenizer(engine.tokenizer.json, template)
    found = conversation_of(tokenizer, checked_messages(messages), tools)
    variables = {"tools": [{"type": "function", "function": tool} for tool in found.tools]} if found.tools else {}
    return tokenizer.markup.decode(tokenizer.encode_chat(found.messages, **variables)), list(found.notes)


def seen(engine: FakeEngine, asked: Call) -> str:
    return engine.tokenizer.markup.decode(engine.encode(asked), skip_special_tokens=False)


@pytest.mark.parametrize("content", [None, "", []])
def test_a_call_without_text_is_shown(engine: FakeEngine, content: Any) -> None:
    talk = [user(), spoken(content, call("weather", "c1", city="Rome")), answer("c1", "sun")]
    assert written(engine, CALLS, *talk) == ('[user]Hi[assistant]<c>weather {"city": "Rome"}</c>[tool]sun', [])
    text, notes = written(engine, PLAIN, *talk)
    assert text == '[user]Hi[assistant]{"name":"weather","arguments":{"city":"Rome"}}[tool]sun'
    assert notes == ["calls of tools were written as text: the chat template has no place for them"]
    engine.generate(messages=talk)
    assert '<|im_start|>tool_call\n{"name":"weather","arguments":{"city":"Rome"}}<|im_end|>' in seen(
        engine, engine.calls[-1]
    )


def test_a_text_beside_calls_is_shown_too(engine: FakeEngine) -> None:
    talk = [user(), spoken("I look.", call("weather"), call("clock"))]
    assert written(engine, CALLS, *talk)[0] == "[user]Hi[assistant]I look.<c>weather {}</c><c>clock {}</c>"
    text, notes = written(engine, CALLS_OR_TEXT, user(), spoken("I look.", call("weather")))
    assert (text, len(notes)) == ("[user]Hi[assistant]I look.[assistant]weather", 1)
    assert written(engine, PLAIN, *talk)[0].splitlines()[0] == "[user]Hi[assistant]I look."
    engine.generate(messages=talk)
    shown = seen(engine, engine.calls[-1])
    assert "<|im_start|>plan\nI look.<|im_end|>" in shown
    assert shown.count("<|im_start|>tool_call\n") == 2


def test_arguments_are_objects_for_templates_and_may_be_empty(engine: FakeEngine) -> None:
    empty = {"type": "function", "function": {"name": "clock", "arguments": ""}}
    given = {"type": "function", "function": {"name": "clock", "arguments": {"a": 1}}}
    assert written(engine, CALLS, user(), spoken(None, empty, given))[0].endswith(
        '<c>clock {}</c><c>clock {"a": 1}</c>'
    )
    old = {"role": "assistant", "content": None, "function_call": {"name": "clock", "arguments": "{}"}}
    assert written(engine, CALLS, user(), old)[0].endswith("<c>clock {}</c>")


def test_answers_stand_in_the_order_of_their_calls(engine: FakeEngine) -> None:
    talk = [
        user(),
        spoken(None, call("a", "1"), call("b", "2"), call("c", "3")),
        answer("3", "C"),
        answer("1", "A"),
        answer("2", "B"),
    ]
    text, notes = written(engine, CALLS, *talk)
    assert text.endswith("[tool]A[tool]B[tool]C")
    assert notes == ["answers of tools were put in the order of their calls"]
    assert written(engine, CALLS, *talk[:2], answer("1", "A"), answer("2", "B"))[1] == []


def test_parts_and_developers(engine: FakeEngine) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}]
    told, asked = {"role": "developer", "content": "D"}, {"role": "user", "content": parts}
    text, notes = written(engine, PLAIN, {"role": "system", "content": "S"}, told, asked)
    assert text == "[system]S\n\nD[user]one\ntwo"
    assert len(notes) == 1
    assert written(engine, PLAIN + "{# developer #}", told) == ("[developer]D", [])
    assert (
        written(engine, PLAIN, user(), {"role": "assistant", "content": None, "refusal": "No."})[0]
        == "[user]Hi[assistant]No."
    )


def test_objects_of_a_client(engine: FakeEngine) -> None:
    class Message:
        def model_dump(self) -> dict[str, Any]:
            nothing: dict[str, Any] = {
                "refusal": None,
                "annotations": [],
                "audio": None,
                "function_call": None,
                "tool_calls": None,
            }
            return {"role": "assistant", "content": "Hello", **nothing}

    assert written(engine, PLAIN, user(), Message()) == ("[user]Hi[assistant]Hello", [])  # type: ignore[arg-type]


def test_tools_in_a_default_block(engine: FakeEngine) -> None:
    block = tools_block([TOOL])
    assert written(engine, CALLS, user(), tools=[TOOL]) == ("[user]Hi<t>weather</t>", [])
    for template, talk, text, where in (
        (
            PLAIN,
            [{"role": "system", "content": "S"}, user()],
            f"[system]S\n\n{block}[user]Hi",
            "behind the system's message",
        ),
        (PLAIN, [user()], f"[system]{block}[user]Hi", "as the system's message"),
        (NO_SYSTEM, [user()], f"[user]{block}\n\nHi", "before the first message"),
    ):
        shown, notes = written(engine, template, *talk, tools=[TOOL])
        assert shown == text
        assert where in notes[0]


def test_a_marker_in_a_tools_description_stays_text_in_the_block(engine: FakeEngine) -> None:
    tokenizer = Tokenizer(engine.tokenizer.json, PLAIN)
    found = conversation_of(tokenizer, checked_messages([user()]), [{**TOOL, "description": "<|im_end|>"}])
    assert tokenizer.marker("<|im_end|>") not in tokenizer.encode_chat(found.messages)


def test_what_no_template_shows_is_refused_by_name(engine: FakeEngine) -> None:
    assert written(engine, NAMED, {**user(), "name": "Ann"})[0] == "[user Ann]Hi"
    with pytest.raises(tm.RequestError, match=r"messages\[1\].*no place for 'name'"):
        written(engine, PLAIN, user(), {**user(), "name": "Ann"})
    with pytest.raises(tm.RequestError, match="no place for 'reasoning_content'"):
        written(engine, CALLS, user(), {"role": "assistant", "content": "x", "reasoning_content": "y"})
    engine.generate(messages=[{"role": "system", "content": "S"}, user()])
    writer = PromptWriter(Tokenizer(engine.tokenizer.json, TALKERS), engine.translator.config)
    with pytest.raises(tm.RequestError, match=r"nothing of messages\[0\] \(role 'system'\)"):
        writer.prompt(engine.calls[-1])


def test_spans_have_the_calls(engine: FakeEngine, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    engine.generate(messages=[user(), spoken(None, call("weather", city="Rome"))])
    (span,) = (span for span in spans.get_finished_spans() if span.name.startswith("chat"))
    said = json.loads(str(dict(span.attributes or {})["gen_ai.input.messages"]))
    assert said[1]["parts"][0]["content"] == '{"name":"weather","arguments":{"city":"Rome"}}'
