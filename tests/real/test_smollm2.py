"""A published model, SmolLM2-135M-Instruct in Q4_1, end to end: `make real` fetches it and runs these.

Oracles: `gguf`'s own reader for tensors, llama.cpp's ids for texts, transformers' Llama on those tensors for ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import gguf
import gguf_files
import numpy as np
import pytest
import torch
from pydantic import BaseModel
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import trimode as tm
from trimode.engine.models.checkpoint import locate
from trimode.engine.models.weight_files import sha256
from trimode.engine.result import Mode
from trimode.integrations.cli import app as cli
from trimode.policy.audit import verify
from trimode.policy.calls import Engine

pytestmark = pytest.mark.real
CPU = torch.device("cpu")
PROMPTS = (
    "The capital of France is", "def fibonacci(n):\n", "1 2 3 4 5 6 7", "Once upon a time, in 1987,",
    "{\"name\": \"calculator\", \"arguments\":", "Ein Gedicht über den Herbst:",
)  # fmt: skip
QUESTIONS = (
    "What is the capital of France?",
    "Anna is 34 years old. Name and age as JSON.",
    "Count from 10 to 20.",
)


class Person(BaseModel):
    name: str
    age: int


def weather(city: str, days: int = 1) -> str:
    """The forecast for a city."""
    return f"{city}: sun for {days} days"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load("smollm2")


@pytest.fixture(scope="module")
def dequantised() -> dict[str, np.ndarray[Any, Any]]:
    """Tensors by llama.cpp's names, as `gguf` reads and dequantises them."""
    reader = gguf.GGUFReader(locate("smollm2").directory)
    return {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        for tensor in reader.tensors
    }


@pytest.fixture(scope="module")
def oracle(dequantised: dict[str, np.ndarray[Any, Any]]) -> Any:
    """transformers' Llama on those tensors, its config written down from the model's card."""
    config: Any = LlamaConfig
    geometry = {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
    }  # fmt: skip
    made: Any = LlamaForCausalLM(config(**geometry))
    parts = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    state = {"model.embed_tokens.weight": dequantised["token_embd.weight"]}
    state |= {
        "model.norm.weight": dequantised["output_norm.weight"],
        "lm_head.weight": dequantised["token_embd.weight"],
    }
    for layer in range(30):
        for ours, theirs in parts.items():
            array = dequantised[f"blk.{layer}.{ours}.weight"]
            if ours in ("attn_q", "attn_k"):
                array = array.reshape(-1, 32, 2, 576).swapaxes(1, 2).reshape(array.shape)
            state[f"model.layers.{layer}.{theirs}.weight"] = array
    made.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
    return made.eval()


def greedy(oracle: Any, prompt: Sequence[int], tokens: int, ends: Sequence[int]) -> list[int]:
    with torch.inference_mode():
        found = oracle.generate(
            torch.tensor([list(prompt)]),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=list(ends),
            pad_token_id=2,
        )
    ids: list[int] = found[0, len(prompt) :].tolist()
    return ids


def test_the_file_is_the_one_that_was_published() -> None:
    assert sha256([locate("smollm2").directory]) == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def test_every_tensor_equals_what_gguf_makes_of_it(dequantised: dict[str, np.ndarray[Any, Any]]) -> None:
    model, _ = locate("smollm2").load(torch.float32, CPU)
    left = dict(dequantised)
    for name, theirs in (("encoder.embed_tokens", "token_embd"), ("encoder.norm", "output_norm")):
        np.testing.assert_array_equal(model.get_parameter(f"{name}.weight").numpy(), left.pop(f"{theirs}.weight"))
    for layer in range(30):
        for name, parameter in model.get_submodule(f"encoder.layers.{layer}").named_parameters():
            theirs = {
                "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "q_proj": "attn_q",
                "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
                "up_proj": "ffn_up", "down_proj": "ffn_down",
            }[name.split(".")[-2]]  # fmt: skip
            found = parameter.numpy()
            if theirs in ("attn_q", "attn_k"):
                found = gguf_files.side_by_side(found, found.shape[0] // 64)
            np.testing.assert_array_equal(found, left.pop(f"blk.{layer}.{theirs}.weight"))
    assert not left
    assert model.diffusion_head.weight is model.encoder.embed_tokens.weight


def test_texts_tokenise_as_in_llama_cpp(engine: Engine) -> None:
    lines = Path(__file__).with_name("llama_cpp_ids.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines:
        expected = json.loads(line)
        text = expected["text"]
        assert engine.tokenizer.encode(text) == expected["plain"], text
        assert engine.tokenizer.markup.encode(text, add_special_tokens=False).ids == expected["markup"], text
    assert len(lines) > 100
    assert engine.tokenizer.encode("2026") == [34, 32, 34, 38]  # a token a digit, which transformers' reader forgets


@pytest.mark.parametrize("text", PROMPTS)
def test_greedy_ids_are_those_of_transformers(engine: Engine, oracle: Any, text: str) -> None:
    ends = engine.tokens.model.config.eos_token_ids
    prompt = engine.tokenizer.encode(text)
    result = engine.generate(text, max_tokens=48, mode="ar")
    assert list(result.token_ids) == greedy(oracle, prompt, 48, ends)


@pytest.mark.parametrize("text", QUESTIONS)
def test_conversations_too(engine: Engine, oracle: Any, text: str) -> None:
    messages = [{"role": "user", "content": text}]
    prompt = engine.tokenizer.encode_chat(messages, add_generation_prompt=True)
    assert engine.tokenizer.markup.decode(prompt, skip_special_tokens=False) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    )
    result = engine.generate(messages=messages, max_tokens=48, mode="ar")
    assert list(result.token_ids) == greedy(oracle, prompt, 48, engine.tokens.model.config.eos_token_ids)


def test_steps_of_every_kind_are_valid_recorded_and_replay(engine: Engine, tmp_path: Path) -> None:
    @tm.step("choice")
    def route(question: str) -> Literal["search", "answer"]:
        """Search the web or answer at once? {question}"""
        ...

    @tm.step("json")
    def person(text: str) -> Person:
        """Name and age in: {text}"""
        ...

    @tm.step("tool_call", tools=[weather], max_tokens=60)
    def act(goal: str) -> tm.ToolCall:
        """{goal}"""
        ...

    @tm.step("prose", max_tokens=20, temperature=0.8, seed=3)
    def say(topic: str) -> str:
        """A sentence about {topic}."""
        ...

    file = tm.AuditFile(tmp_path / "audit.jsonl", content=True)
    with tm.session(engine, trace=file), tm.using(mode="ar"):
        assert route("Who won the match last night?") in ("search", "answer")
        assert isinstance(person("Bob, 51"), Person)
        assert act("Weather in Rome for 2 days").name == "weather"
        assert say("cats")
    assert verify(tmp_path / "audit.jsonl") == []
    replayed = CliRunner().invoke(cli.app, ["audit", "replay", str(tmp_path / "audit.jsonl")])
    assert replayed.exit_code == 0, replayed.output
    assert "bit for bit" in replayed.output


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_the_bundled_adapter_drafts_the_tokens_of_ar(engine: Engine, temperature: float) -> None:
    """Found by the model's name and digest; a linear cycle, which decides a token itself, takes no more passes."""
    assert engine.checkpoint.adapter_name == "smollm2-135m"
    asked: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": QUESTIONS[1]}], "schema": Person, "max_tokens": 60},
        *({"messages": [{"role": "user", "content": text}], "max_tokens": 32} for text in QUESTIONS[::2]),
    ]
    passes: dict[Mode, int] = {"ar": 0, "linear_spec": 0, "quadratic_spec": 0}
    accepted = dict(passes)
    for options in asked:
        ids = set[tuple[int, ...]]()
        for mode in passes:
            found = engine.generate(**options, mode=mode, temperature=temperature, seed=5)
            passes[mode] += found.stats.forward_passes
            accepted[mode] += found.stats.accepted
            ids.add(tuple(found.token_ids))
        assert len(ids) == 1
    assert passes["linear_spec"] <= passes["ar"]
    assert passes["quadratic_spec"] < passes["ar"]
    assert accepted["linear_spec"] > 0


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_copied_drafts_give_the_tokens_of_ar_in_fewer_passes(engine: Engine, temperature: float) -> None:
    asked: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": QUESTIONS[1]}], "schema": Person, "max_tokens": 60},
        *({"prompt": text, "max_tokens": 48} for text in PROMPTS[:3]),
    ]
    passes: dict[Mode, int] = {"ar": 0, "lookup_spec": 0}
    for options in asked:
        ids = set[tuple[int, ...]]()
        for mode in passes:
            found = engine.generate(**options, mode=mode, temperature=temperature, seed=5)
            passes[mode] += found.stats.forward_passes
            ids.add(tuple(found.token_ids))
        assert len(ids) == 1
    assert passes["lookup_spec"] < passes["ar"]


def test_streams_add_up_and_other_modes_are_refused(engine: Engine) -> None:
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    pieces = [event.text for event in engine.stream(messages=messages, max_tokens=16, mode="ar")]
    assert "".join(pieces) == "The capital of France is Paris."
    with pytest.raises(tm.ModeUnavailable, match="weights decode in ar, linear_spec, quadratic_spec, lookup_spec only"):
        engine.generate(messages=messages, mode="diffusion")


def test_without_the_bundled_adapter(engine: Engine) -> None:
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    with Engine.load("smollm2", adapter=False) as bare:
        assert bare.checkpoint.adapter_name == ""
        for mode in ("diffusion", "linear_spec", "quadratic_spec"):
            with pytest.raises(tm.ModeUnavailable, match="LlamaForCausalLM weights decode in ar, lookup_spec only"):
                bare.generate(messages=messages, mode=mode)
        ids = [one.generate(messages=messages, max_tokens=16, mode="ar").token_ids for one in (bare, engine)]
        assert ids[0] == ids[1]
