"""An SDAR checkpoint behind the public engine: messages, schemas and records in the one mode that it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from byte_tokenizer import write_tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

import trimode as tm
from trimode.engine.errors import ModeUnavailable
from trimode.policy.audit.trail import read_audit, verify
from trimode.policy.calls.engine import Engine

END, MASK = "<|im_end|>", "<|MASK|>"
TEMPLATE = "{%- for m in messages %}{{- m['content'] + '<|im_end|>' }}{%- endfor %}"
HELLO = [{"role": "user", "content": "How long?"}]
LENGTH = {
    "type": "object",
    "properties": {"low": {"type": "integer", "minimum": 0, "maximum": 99}, "unit": {"enum": ["cm", "m"]}},
    "required": ["low", "unit"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def sdar(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Random weights; mask token and block length are not in config.json, as in some published checkpoints."""
    directory = tmp_path_factory.mktemp("sdar")
    size = write_tokenizer(directory, (END, MASK), {"eos_token": END, "mask_token": MASK, "chat_template": TEMPLATE})
    configure: Any = Qwen3Config
    build: Any = Qwen3ForCausalLM
    config = configure(
        vocab_size=size + 5,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=512,
        initializer_range=0.4,
        eos_token_id=size - 2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        build(config).save_pretrained(directory)
    path = directory / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8")) | {"architectures": ["SDARForCausalLM"], "model_type": "sdar"}
    path.write_text(json.dumps(fields), encoding="utf-8")
    return Engine.load(directory)


def test_messages_and_schemas_work_in_diffusion(sdar: Engine) -> None:
    chat = sdar.generate(messages=HELLO, mode="diffusion", max_tokens=9)
    assert chat.stats.prompt_tokens == len("How long?") + 1
    assert 1 <= len(chat.token_ids) <= 9
    held = sdar.generate(messages=HELLO, schema=LENGTH, mode="diffusion", max_tokens=60)
    assert held.valid
    assert set(held.value) == {"low", "unit"}
    assert list(sdar.stream(messages=HELLO, schema=LENGTH, mode="diffusion", max_tokens=60))


def test_the_record_holds_the_block_length_that_ran(sdar: Engine, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with tm.session(sdar, policy=tm.Policy(), trace=f"file:{path}"):
        for schema in (None, LENGTH):
            sdar.generate(messages=HELLO, mode="diffusion", max_tokens=60, schema=schema)
    assert verify(path) == []
    entries = [line.record for line in read_audit(path)]
    assert [entry and entry.options for entry in entries] == [
        {"mode": "diffusion", "block_length": 4, "threshold": 0.9, "selection": "vendor"}
    ] * 2


@pytest.mark.parametrize("said", [{}, {"mode": "ar"}, {"schema": LENGTH}, {"mode": "quadratic_spec"}], ids=repr)
def test_other_modes_are_refused_even_where_the_table_chose_them(sdar: Engine, said: dict[str, Any]) -> None:
    message = r"SDARForCausalLM weights decode in diffusion only; pass mode='diffusion'"
    with pytest.raises(ModeUnavailable, match=message):
        sdar.generate(messages=HELLO, max_tokens=40, **said)


def test_what_needs_other_weights_is_refused(sdar: Engine) -> None:
    with pytest.raises(tm.RequestError, match=r"block_length=32: .* trained for blocks of 4; leave it out"):
        sdar.generate(messages=HELLO, mode="diffusion", block_length=32)
    with pytest.raises(tm.RequestError, match=r"read given tokens causally"):
        sdar.choice(["a", "b"], "x")
    with pytest.raises(tm.RequestError, match=r"infill\(\) fills one block that begins where the prompt ends"):
        sdar.infill("a", "b", max_tokens=2)
