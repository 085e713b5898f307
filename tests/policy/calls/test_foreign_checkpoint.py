"""A Llama checkpoint behind the public engine: the same calls, one mode, and a clear word where another mode comes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from byte_tokenizer import write_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

import trimode as tm
from trimode.engine.errors import ModeUnavailable
from trimode.policy.calls.engine import Engine

BEGIN, END, TURN = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
TEMPLATE = "{{- bos_token }}{%- for m in messages %}{{- m['content'] + '<|eot_id|>' }}{%- endfor %}"
HELLO = [{"role": "user", "content": "How long?"}]
LENGTH = {
    "type": "object",
    "properties": {"low": {"type": "integer", "minimum": 0, "maximum": 99}, "unit": {"enum": ["cm", "m"]}},
    "required": ["low", "unit"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama checkpoint as it would lie on the hub; its end tokens stand in generation_config.json alone."""
    directory = tmp_path_factory.mktemp("llama")
    size = write_tokenizer(
        directory, (BEGIN, END, TURN), {"bos_token": BEGIN, "eos_token": TURN, "chat_template": TEMPLATE}
    )
    configure: Any = LlamaConfig
    build: Any = LlamaForCausalLM
    config = configure(
        vocab_size=size + 5,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.4,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = build(config)
    made.generation_config.eos_token_id = [size - 1, size - 2]
    made.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def loaded_llama(llama: Path) -> Engine:
    return Engine.load(llama)


def test_prompts_messages_and_schemas_work_in_ar(loaded_llama: Engine) -> None:
    raw = loaded_llama.generate("abc", max_tokens=5)
    assert (raw.plan.mode, raw.stats.prompt_tokens) == ("ar", 1 + 3)
    chat = loaded_llama.generate(messages=HELLO, max_tokens=5)
    assert chat.stats.prompt_tokens == 1 + len("How long?") + 1
    held = loaded_llama.generate(messages=HELLO, schema=LENGTH, mode="ar", max_tokens=60)
    assert held.valid
    assert set(held.value) == {"low", "unit"}
    assert held.token_ids[-1] in loaded_llama.tokens.model.config.eos_token_ids


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("schema", [None, LENGTH], ids=["free", "schema"])
def test_copied_drafts_give_the_tokens_of_ar(loaded_llama: Engine, temperature: float, schema: Any) -> None:
    asked: dict[str, Any] = {"messages": HELLO, "schema": schema, "temperature": temperature, "max_tokens": 60}
    for seed in range(3):
        plain, found = (loaded_llama.generate(**asked, seed=seed, mode=mode) for mode in ("ar", "lookup_spec"))
        assert found.token_ids == plain.token_ids
        assert found.stats.forward_passes <= plain.stats.forward_passes
        assert not found.notes


def test_auto_weighs_the_modes_that_the_weights_have(loaded_llama: Engine) -> None:
    with tm.session(loaded_llama, policy="auto"):
        reason = loaded_llama.generate(messages=HELLO, max_tokens=20).plan.reason
    assert "lookup_spec" in reason
    assert "linear_spec" not in reason


def test_a_tool_call_decodes_in_ar_without_a_word_about_modes(loaded_llama: Engine) -> None:
    def measure(low: Literal[1, 2]) -> int:
        """Measure."""
        return low

    found = loaded_llama.generate(messages=HELLO, tools=[measure], max_tokens=80)
    assert (found.plan.mode, found.valid) == ("ar", True)
    assert found.plan.reason == (
        "ar: policy 'trimode' for tool_call steps; LlamaForCausalLM weights have no linear_spec"
    )


@pytest.mark.parametrize("said", [{"mode": "linear_spec"}, {"mode": "diffusion"}])
def test_other_modes_are_refused_where_somebody_named_them(loaded_llama: Engine, said: dict[str, Any]) -> None:
    with pytest.raises(
        ModeUnavailable, match=r"LlamaForCausalLM weights decode in ar, lookup_spec only; pass mode='ar'"
    ) as caught:
        loaded_llama.generate(messages=HELLO, schema=LENGTH, max_tokens=60, **said)
    assert caught.value.mode == said["mode"]


def test_a_policy_in_trimode_toml_is_taken_at_its_word(
    loaded_llama: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @tm.step("json", max_tokens=60)
    def measure() -> dict[str, int]:
        """Measure."""
        ...

    monkeypatch.chdir(tmp_path)
    with tm.session(loaded_llama):
        assert measure.result().plan.reason.endswith("LlamaForCausalLM weights have no linear_spec")
    (tmp_path / "trimode.toml").write_text('[kinds.json]\nmode = "linear_spec"\n', encoding="utf-8")
    with tm.session(loaded_llama), pytest.raises(ModeUnavailable):
        measure.result()
    with pytest.raises(ModeUnavailable):
        loaded_llama.generate(messages=HELLO, schema=LENGTH, max_tokens=60)
    with tm.session(loaded_llama), tm.using(mode="ar"):
        assert measure.result().plan.reason == "ar: using(mode='ar')"


def test_the_digest_covers_the_generation_config(llama: Path, tmp_path: Path) -> None:
    before = Engine.load(llama).checkpoint.model_sha256
    for path in llama.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert Engine.load(tmp_path).checkpoint.model_sha256 == before
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"eos_token_id": 7}), encoding="utf-8")
    changed = Engine.load(tmp_path)
    assert changed.checkpoint.model_sha256 != before
    assert changed.tokens.model.config.eos_token_ids == (7,)
