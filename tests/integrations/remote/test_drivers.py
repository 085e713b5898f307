"""What is sent to each kind of server and what is read from it, against documented fields; nothing is sent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from scripted import MODEL, answer, answering, chunk, event, held, keeping, kept, playing, raw

import trimode as tm
from trimode.engine.request import Sampling
from trimode.integrations.remote.admission import admitted
from trimode.integrations.remote.connect import driver_of
from trimode.integrations.remote.drivers.llamacpp import GBNF, LLGUIDANCE
from trimode.integrations.remote.drivers.openai import CHAT, COMPLETIONS, Driver
from trimode.integrations.remote.drivers.reader import AnswerReader
from trimode.integrations.remote.drivers.sglang import GENERATE, GenerateReader
from trimode.policy.audit import Reported
from trimode.policy.errors import UnsupportedKeyword
from trimode.policy.remote import Capabilities, Constraint, Dialect, Pool, RemoteRequest, Retry, Turning

ASK: list[dict[str, Any]] = [{"role": "user", "content": "How many apples?"}]
NUMBER = {"type": "integer", "minimum": 3}
TOOL = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}
KINDS = ("openai", "vllm", "sglang", "llamacpp", "trimode", "tensorrt-llm", "tgi", "mlx")


def can(kind: str, **more: Any) -> Capabilities:
    driver = driver_of(kind)
    facts: dict[str, Any] = {"modes": ("ar",), **driver.table, "dialect": driver.dialect, **more}
    return driver.fitted(Capabilities(pool="p", kind=kind, model="m", **facts))


def asking(**more: Any) -> RemoteRequest:
    given: dict[str, Any] = {"mode": "ar", "sampling": Sampling(), "max_tokens": 9, "messages": tuple(ASK), **more}
    return RemoteRequest(**given)


def body(kind: str, request: RemoteRequest, **more: Any) -> dict[str, Any]:
    able = can(kind, **more)
    return driver_of(kind).written(request, able, admitted(request, able)).body


def json_schema(document: Any = NUMBER, checked: bool = False) -> Constraint:
    return Constraint(form="json", given=document, compiled=document, checked=checked)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_sends_model_messages_and_length_and_streams(kind: str) -> None:
    found = body(kind, asking(stop=("END",)))
    assert (found["model"], found["messages"], found["stream"]) == ("m", ASK, True)
    assert {found.get("max_tokens"), found.get("max_completion_tokens")} == {9, None}
    assert found["stop"] == ["END"]


def test_ours_are_sent_in_the_place_of_a_servers_defaults() -> None:
    assert body("llamacpp", asking()).items() >= {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0}.items()
    assert body("vllm", asking()).items() >= {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}.items()
    assert body("sglang", asking())["top_k"] == -1


STRICT: dict[str, Any] = {"name": "answer", "strict": True, "schema": NUMBER}
CONSTRAINED: dict[str, tuple[str, Any]] = {
    "openai": ("response_format", {"type": "json_schema", "json_schema": STRICT}),
    "vllm": ("structured_outputs", {"json": NUMBER}),
    "sglang": ("response_format", {"type": "json_schema", "json_schema": STRICT}),
    "llamacpp": ("response_format", {"type": "json_schema", "json_schema": STRICT}),
    "tgi": ("response_format", {"type": "json_object", "value": {"type": "integer"}}),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONSTRAINED)
def test_a_schema_in_the_words_of_each_api(kind: str) -> None:
    name, expected = CONSTRAINED[kind]
    asked = json_schema({"type": "integer"} if kind == "tgi" else NUMBER)
    assert body(kind, asking(constraint=asked))[name] == expected


def test_llama_cpp_with_our_grammar_engine_gets_our_grammar() -> None:
    sent = body("llamacpp", asking(constraint=json_schema({"type": "number", "maximum": 3})), dialect=LLGUIDANCE)
    start = sent["grammar"].removeprefix("%llguidance {}\nstart: %json ")
    assert json.loads(start)["maximum"] == 3
    assert json.loads(start)["x-guidance"]["whitespace_flexible"] is False
    with pytest.raises(UnsupportedKeyword, match="integer alone"):
        body("llamacpp", asking(constraint=json_schema({"type": "number", "maximum": 3})), dialect=GBNF)


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        (Constraint(form="regex", given="a+"), {"regex": "a+"}),
        (Constraint(form="choice", given=["a", "b"]), {"choice": ["a", "b"]}),
        (Constraint(form="lark", given="start: /a/"), {"grammar": "start: /a/"}),
    ],
)
def test_text_formats_of_vllm(constraint: Constraint, expected: Any) -> None:
    assert body("vllm", asking(constraint=constraint))["structured_outputs"] == expected


def test_a_choice_is_an_enum_where_there_is_no_better_form() -> None:
    choice = Constraint(form="choice", given=["a", "b"])
    assert body("openai", asking(constraint=choice))["response_format"]["json_schema"]["schema"] == {"enum": ["a", "b"]}
    reader = AnswerReader("p", text='"b"')
    assert Driver().text_of(asking(constraint=choice), reader) == "b"


@pytest.mark.parametrize(
    ("kind", "document", "keyword"),
    [
        ("openai", {"type": "string", "minLength": 3}, "minLength"),
        ("openai", {"type": "object", "properties": {"a": NUMBER}, "additionalProperties": False}, "properties"),
        ("llamacpp", {"type": "array", "uniqueItems": True}, "uniqueItems"),
        ("llamacpp", {"type": "string", "format": "email"}, "format"),
        ("llamacpp", {"anyOf": [NUMBER], "minimum": 3}, "minimum"),
        ("sglang", {"type": "object", "patternProperties": {"a": NUMBER}}, "patternProperties"),
        ("vllm", {"type": "array", "items": {"not": NUMBER}}, "not"),
    ],
)
def test_what_a_server_would_ignore_is_refused_or_checked(kind: str, document: Any, keyword: str) -> None:
    with pytest.raises(UnsupportedKeyword) as found:
        admitted(asking(constraint=json_schema(document)), can(kind))
    assert found.value.keyword == keyword
    made = admitted(asking(constraint=json_schema(document, checked=True)), can(kind))
    assert not made.enforced
    assert any(repr(keyword) in note for note in made.notes)


@pytest.mark.parametrize(
    ("kind", "more", "match"),
    [
        ("openai", {"sampling": Sampling(top_k=4)}, "top_k"),
        ("mlx", {"sampling": Sampling(logit_bias=((1, 2.0),))}, "logit_bias"),
        ("openai", {"continued": True}, "continue_final_message"),
        ("llamacpp", {"thinking": 5}, "max_thinking_tokens"),
        ("llamacpp", {"sampling": Sampling(seed=2**32)}, "seeds up to"),
        ("openai", {"messages": (), "prompt_ids": (1, 2)}, "prompt_ids"),
        ("openai", {"messages": (), "prompt": "a", "constraint": json_schema()}, "raw prompt"),
        ("mlx", {"tools": (TOOL,), "turn": Turning(choice="auto", parallel=True)}, "turns with tools"),
        ("vllm", {"mode": "diffusion"}, "decode in ar"),
    ],
)
def test_what_an_api_lacks_is_refused_by_name(kind: str, more: dict[str, Any], match: str) -> None:
    with pytest.raises(tm.TrimodeError, match=match):
        admitted(asking(**more), can(kind))


def test_exact_is_claimed_only_where_it_can_be_kept() -> None:
    drafting = {"mode": "lookup_spec", "said": frozenset({"exact"})}
    warm = {**drafting, "sampling": Sampling(temperature=0.7)}
    assert admitted(asking(**drafting), can("vllm", modes=("lookup_spec",)))
    assert admitted(asking(**warm), can("trimode", modes=("lookup_spec",)))
    with pytest.raises(tm.TrimodeError, match="above 0"):
        admitted(asking(**warm), can("vllm", modes=("lookup_spec",)))
    with pytest.raises(tm.TrimodeError, match="what it promises"):
        admitted(asking(**drafting), can("openai", modes=("lookup_spec",)))


def test_a_diffusion_pool_of_vllm_takes_knobs_and_no_schema() -> None:
    request = asking(mode="diffusion", knobs={"block_length": 64}, exact=False)
    assert body("vllm", request, modes=("diffusion",), version="0.33.0")["vllm_xargs"] == {
        "diffusion_canvas_length": 64
    }
    older = can("vllm", modes=("diffusion",), version="0.32.0")
    assert any("block_length=64 was not sent" in note for note in admitted(request, older).notes)
    with pytest.raises(tm.TrimodeError, match="takes none"):
        admitted(replace(request, constraint=Constraint(form="regex", given="a")), older)


def test_tools_of_a_step_reach_the_model_as_each_server_can() -> None:
    request = asking(tools=(TOOL,), kind="tool_call", constraint=json_schema({"type": "object"}))
    closed = replace(request, constraint=json_schema({"type": "object"}))
    native = body("openai", closed)
    assert (native["tool_choice"], native["tools"][0]["function"]["strict"]) == ("required", True)
    assert body("vllm", request)["tool_choice"] == "none"
    shown = body("llamacpp", request)
    assert shown["messages"][0]["role"] == "system"
    assert '"look"' in shown["messages"][0]["content"]
    assert "tools" not in shown


def test_a_system_message_of_the_caller_stays() -> None:
    messages = ({"role": "system", "content": "Be brief."}, *ASK)
    request = asking(messages=messages, tools=(TOOL,), kind="tool_call", constraint=json_schema({"type": "object"}))
    system, user = body("llamacpp", request)["messages"]
    assert system["content"].startswith("Be brief.\n\n")
    assert user == ASK[0]


def test_raw_prompts_go_to_completions() -> None:
    able = can("vllm")
    request = asking(messages=(), prompt_ids=(5, 6), constraint=json_schema())
    sent = driver_of("vllm").written(request, able, admitted(request, able))
    assert sent.path == COMPLETIONS
    assert sent.body.items() >= {"prompt": [5, 6], "max_tokens": 9, "structured_outputs": {"json": NUMBER}}.items()


def test_raw_prompts_of_sglang_go_to_its_own_endpoint() -> None:
    able = can("sglang")
    request = asking(messages=(), prompt="Once", constraint=Constraint(form="regex", given="a+"))
    sent = driver_of("sglang").written(request, able, admitted(request, able))
    assert sent.path == GENERATE
    assert sent.body["text"] == "Once"
    assert sent.body["sampling_params"].items() >= {"regex": "a+", "max_new_tokens": 9, "sampling_seed": 0}.items()


def test_counts_of_sglang() -> None:
    driver, request = driver_of("sglang"), asking(messages=(), prompt="Once")
    reader = driver.reader("p", request)
    assert isinstance(reader, GenerateReader)
    about = {
        "id": "r", "prompt_tokens": 4, "completion_tokens": 6, "cached_tokens": 1, "spec_verify_ct": 2,
        "spec_accept_token_num": 4, "spec_draft_token_num": 8, "e2e_latency": 0.5,
    }  # fmt: skip
    assert reader.feed({"text": "upon", "meta_info": {**about, "finish_reason": None}})
    assert reader.feed({"text": "upon a time", "meta_info": {**about, "finish_reason": {"type": "stop"}}})
    assert (reader.text, reader.finish) == ("upon a time", "stop")
    assert driver.reported(reader) == Reported(
        prompt_tokens=4, output_tokens=6, cached_tokens=1, drafted=8, accepted=4, steps=2, server_seconds=0.5
    )


def test_counts_of_vllm() -> None:
    drafts = {
        "num_draft_tokens": 9, "num_accepted_draft_tokens": 5, "num_spec_steps": 3, "per_step_drafted": [3, 3, 3],
        "per_step_accepted": [3, 0, 2],
    }  # fmt: skip
    reader = AnswerReader("p")
    reader.feed(chunk("a", "stop"))
    usage = {"prompt_tokens": 4, "completion_tokens": 6}
    metrics = {"generation_time_ms": 20.0, "time_to_first_token_ms": 5.0, "speculative_decoding": drafts}
    reader.feed({"choices": [], "usage": usage, "metrics": metrics})
    assert driver_of("vllm").reported(reader) == Reported(
        prompt_tokens=4, output_tokens=6, drafted=9, accepted=5, steps=3, drafted_per_step=(3, 3, 3),
        accepted_per_step=(3, 0, 2), server_seconds=0.02, prefill_seconds=0.005,
    )  # fmt: skip


def test_counts_of_llama_cpp() -> None:
    reader = AnswerReader("p")
    timings = {"cache_n": 3, "prompt_ms": 10.0, "predicted_ms": 30.0, "draft_n": 8, "draft_n_accepted": 6}
    reader.feed({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}, "timings": timings})
    assert driver_of("llamacpp").reported(reader) == Reported(
        prompt_tokens=7,
        output_tokens=9,
        cached_tokens=3,
        drafted=8,
        accepted=6,
        server_seconds=0.04,
        prefill_seconds=0.01,
    )


def test_what_a_server_does_not_say_is_absent() -> None:
    reader = AnswerReader("p")
    reader.feed(chunk("a", "stop"))
    for kind in KINDS:
        assert driver_of(kind).reported(reader) == Reported()


def test_an_absent_count_is_no_zero() -> None:
    with playing(answering("20", usage=None)) as server, tm.Engine.remote(server.url) as engine:
        result = engine.generate(messages=ASK)
        with tm.session(engine, budget=tm.Budget(tokens=50)) as session:
            engine.generate(messages=ASK)
    assert result.remote is not None
    assert result.remote.reported == Reported()
    with pytest.raises(AttributeError, match="did not report drafted"):
        _ = result.stats.drafted
    assert getattr(result.stats, "prompt_tokens", None) is None
    assert any("an estimate" in note for note in result.notes)
    assert session.spent.tokens == result.stats.output_tokens > 0


def test_a_native_tool_call_is_validated() -> None:
    def call(name: str, arguments: str) -> bytes:
        part = {"index": 0, "id": "c", "function": {"name": name, "arguments": arguments[:3]}}
        more = {"index": 0, "function": {"arguments": arguments[3:]}}
        deltas = [{"tool_calls": [part]}, {"tool_calls": [more]}]
        chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        return b"".join(map(event, [*chunks, chunk(finish="tool_calls"), "[DONE]"]))

    def probe(asked: Any) -> bytes:
        function = asked.body["tools"][0]["function"]
        value = function["parameters"]["properties"]["code"]["enum"][0]
        return call(function["name"], json.dumps({"code": value}))

    closed = {
        "type": "object",
        "properties": {"key": {"enum": ["a"]}},
        "required": ["key"],
        "additionalProperties": False,
    }
    tool = {"name": "look", "description": "Looks.", "parameters": closed}
    for arguments, valid in (('{"key": "a"}', True), ('{"key": "z"}', False)):
        script = [lambda connection, asked: raw(probe(asked))(connection, asked), raw(call("look", arguments))]
        with playing(*script) as server, tm.Engine.remote(server.url) as engine:
            if valid:
                result = engine.generate(messages=ASK, tools=[tool], step="tool_call")
                assert (result.value.name, result.value.arguments) == ("look", {"key": "a"})
            else:
                with pytest.raises(tm.SchemaViolation, match="did not keep it"):
                    engine.generate(messages=ASK, tools=[tool], step="tool_call")


def test_a_turn_of_text_and_calls_as_it_streams() -> None:
    part = {"index": 0, "id": "c", "function": {"name": "look", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": '{"key":"a"}'}}
    deltas: list[dict[str, Any]] = [{"content": "Let me see."}, {"tool_calls": [part]}, {"tool_calls": [more]}]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    data = b"".join(map(event, [*chunks, chunk(finish="tool_calls"), "[DONE]"]))
    closed = {
        "type": "object",
        "properties": {"key": {"enum": ["a"]}},
        "required": ["key"],
        "additionalProperties": False,
    }
    tool = {"name": "look", "description": "Looks.", "parameters": closed}
    with playing(raw(data)) as server, tm.Engine.remote(server.url) as engine:
        events = list(engine.stream(messages=ASK, tools=[tool], step="turn"))
        sent = server.calls[0].body
    result = events[-1].result
    assert result is not None
    (call,) = result.calls
    assert (call.name, call.arguments, result.content) == ("look", {"key": "a"}, "Let me see.")
    told = [one.call for one in events if one.call is not None]
    assert {one.id for one in told} == {call.id}
    assert "".join(one.arguments for one in told) == '{"key":"a"}'
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("auto", True)


def test_a_key_is_sent_and_is_nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, spans: Any) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret-value")
    path = tmp_path / "calls.jsonl"
    with playing(*held(answering('{"n":4}'))) as server:
        with tm.Engine.remote(server.url, api_key_env="SOME_KEY", retry=Retry(attempts=1)) as engine:
            with tm.session(engine, trace=f"file:{path}", content=True):
                closed = {
                    "type": "object",
                    "properties": {"n": NUMBER},
                    "required": ["n"],
                    "additionalProperties": False,
                }
                result = engine.generate(messages=ASK, schema=closed)
            shown = [repr(engine), repr(result), repr(result.remote), repr(vars(engine)), path.read_text()]
            shown += [str(span.attributes) for span in spans.get_finished_spans()]
        assert {one.headers.get("authorization") for one in server.asked} == {"Bearer sk-secret-value"}
    assert not any("sk-secret" in text for text in shown)
    assert MODEL in shown[0]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"url": "http://user:pw@127.0.0.1:1"}, "credentials"),
        ({"url": "ftp://x"}, "http://"),
        ({"url": "http://127.0.0.1:1", "kind": "ollama"}, "expected one of openai"),
        ({"url": "http://127.0.0.1:1", "api_key_env": "NOT_SET_ANYWHERE"}, "no such variable"),
        ({"url": "http://127.0.0.1:1", "limit": 0}, "limit"),
        ({"url": "http://127.0.0.1:1", "method": "fast"}, "expected one of ar"),
        ({"url": "http://127.0.0.1:1", "colour": 1}, "unknown argument 'colour'"),
        ({"url": "http://127.0.0.1:1", "pools": "x"}, "list of Pool"),
        ({"url": "http://127.0.0.1:1", "retry": 3}, "expected a Retry"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(tm.TrimodeError, match=match) as found:
        tm.Engine.remote(**arguments)
    assert "pw" not in str(found.value)


def test_a_mode_chooses_its_pool() -> None:
    with playing(answering("plain")) as plain, playing(answering("drafted")) as drafted:
        pools = [Pool(url=drafted.url, method="ngram")]
        with tm.Engine.remote(plain.url, pools=pools) as engine:
            assert engine.generate(messages=ASK).text == "plain"
            assert engine.generate(messages=ASK, mode="lookup_spec").text == "drafted"
            with pytest.raises(tm.ModeUnavailable, match="quadratic_spec"):
                engine.generate(messages=ASK, mode="quadratic_spec")


def test_a_dialect_walks_into_every_part() -> None:
    few = Dialect(
        name="few", forms=frozenset({"json"}), keywords=frozenset({"type", "properties", "items", "$ref", "anyOf"})
    )
    document = {
        "properties": {"a/b": {"items": {"minimum": 1}}, "minimum": {"type": "integer"}},
        "$defs": {"x": {"anyOf": [{"maximum": 2}]}},
        "title": "x",
    }
    assert [place for place, _, _ in few.ignored(document)] == [
        "/properties/a~1b/items/minimum", "/$defs/x/anyOf/0/maximum",
    ]  # fmt: skip


def test_a_whole_answer_in_chat() -> None:
    assert CHAT == "/v1/chat/completions"
    with playing(keeping(kept), raw(answer('{"n":', "4}"))) as server, tm.Engine.remote(server.url) as engine:
        closed = {"type": "object", "properties": {"n": NUMBER}, "required": ["n"], "additionalProperties": False}
        assert engine.generate(messages=ASK, schema=closed).value == {"n": 4}
        assert {one.path for one in server.calls} == {CHAT}
