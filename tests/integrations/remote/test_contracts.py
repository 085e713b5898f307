"""Servers that speak the documented fields of kinds that cannot run here, from connecting to counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scripted import Asked, answering, event, playing, raw

import trimode as tm
from trimode.policy.remote import AnswerGarbled

ASK: list[dict[str, Any]] = [{"role": "user", "content": "How many apples?"}]
SGLANG = {"version": "0.5.23", "speculative_algorithm": "EAGLE3", "model_path": "m"}


def generated(*texts: str, **told: Any) -> bytes:
    """The stream of SGLang's /generate, whose events have the whole text so far."""
    ends = [None] * (len(texts) - 1) + [{"type": "stop"}]
    whole = ["".join(texts[: number + 1]) for number in range(len(texts))]
    parts = [
        {"text": text, "meta_info": {"id": "r", "finish_reason": end, **told}}
        for text, end in zip(whole, ends, strict=True)
    ]
    return b"".join(map(event, [*parts, "[DONE]"]))


def test_sglang_tells_how_it_drafts() -> None:
    data = generated("20", " apples", prompt_tokens=5, completion_tokens=3, spec_verify_ct=2, spec_draft_token_num=6,
                     spec_accept_token_num=2)  # fmt: skip
    with playing(raw(data), lists={"/get_server_info": SGLANG}) as server:
        with tm.Engine.remote(server.url, "sglang") as engine:
            (can,) = engine.capabilities.values()
            result = engine.generate("How many apples?", mode="linear_spec")
        (asked,) = server.calls
    assert (can.version, can.method, can.modes, can.contract_only) == ("0.5.23", "eagle3", ("linear_spec",), True)
    assert (asked.path, result.text) == ("/generate", "20 apples")
    assert result.remote is not None
    told = result.remote.reported
    assert (told.drafted, told.accepted, told.steps, told.output_tokens) == (6, 2, 2, 3)
    assert result.stats.drafted == 6


@pytest.mark.parametrize(
    ("told", "mode"),
    [({"dllm_algorithm": "low_confidence"}, "diffusion"), ({"speculative_algorithm": "UNO"}, "linear_spec")],
)
def test_sglang_refuses_schemas_where_it_would_ignore_them(told: dict[str, Any], mode: Any) -> None:
    with (
        playing(answering("20"), lists={"/get_server_info": told}) as server,
        tm.Engine.remote(server.url, "sglang") as engine,
    ):
        with pytest.raises(tm.UnsupportedSyntax, match="takes none"):
            engine.generate(messages=ASK, schema={"type": "integer"}, mode=mode, exact=False)
        assert server.calls == []


@pytest.mark.parametrize(("text", "ours"), [("ok", True), ("a b c d", False)])
def test_llama_cpp_tells_how_it_drafts_and_whether_it_has_our_grammars(text: str, ours: bool) -> None:
    params = {"speculative.types": "draft-eagle3"}
    props = {"build_info": "b11549", "default_generation_settings": {"n_ctx": 4096, "params": params}}
    whole = json.dumps({"choices": [{"text": text, "index": 0}]}).encode()
    with (
        playing(raw(whole, "application/json"), answering("20"), lists={"/props": props}) as server,
        tm.Engine.remote(server.url, "llamacpp") as engine,
    ):
        (can,) = engine.capabilities.values()
    assert (can.version, can.context, can.method, can.modes) == ("b11549", 4096, "eagle3", ("linear_spec",))
    assert (can.dialect.name == "llguidance") == ours


def test_vllm_tells_its_version_and_context() -> None:
    lists = {"/version": {"version": "0.33.0"}, "/v1/models": {"data": [{"id": "big", "max_model_len": 8192}]}}
    with playing(answering("20"), lists=lists) as server, tm.Engine.remote(server.url, "vllm") as engine:
        (can,) = engine.capabilities.values()
        assert (can.version, can.context, can.model, engine.context) == ("0.33.0", 8192, "big", 8192)
        assert can.read == ("/v1/models", "/version")


def test_a_model_is_chosen_by_name() -> None:
    with playing(answering("20")) as server:
        with tm.Engine.remote(server.url, model="other") as engine:
            engine.generate(messages=ASK)
        asked: Asked = server.calls[0]
    assert asked.body["model"] == "other"


def test_a_server_without_models_needs_a_name() -> None:
    with playing(answering("20"), lists={"/v1/models": {"data": []}}) as server:
        with pytest.raises(AnswerGarbled, match="pass model="):
            tm.Engine.remote(server.url)
        with tm.Engine.remote(server.url, model="m") as engine:
            assert engine.generate(messages=ASK).text == "20"


def test_a_context_that_the_server_does_not_tell() -> None:
    with (
        playing(answering("20")) as server,
        tm.Engine.remote(server.url) as engine,
        pytest.raises(tm.RequestError, match="length of its context"),
    ):
        _ = engine.context


@pytest.mark.parametrize("kind", ["tensorrt-llm", "tgi", "mlx"])
def test_profiles_say_that_they_were_not_run(kind: str) -> None:
    with playing(answering("20")) as server, tm.Engine.remote(server.url, kind) as engine:
        assert next(iter(engine.capabilities.values())).contract_only
        assert engine.generate(messages=ASK).text == "20"
