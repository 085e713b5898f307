"""The public engine on the reference checkpoint: what it refuses and how, and what its answers keep to."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from loaded import SHORT

import trimode as tm
from trimode.engine.models.checkpoint import locate
from trimode.engine.result import Mode
from trimode.integrations.cli.demo import episodes
from trimode.policy.calls.engine import Engine
from trimode.policy.errors import BudgetTooSmall

MODES: Final[tuple[Mode, ...]] = ("ar", "diffusion", "linear_spec", "quadratic_spec")
HELLO: Final = [{"role": "user", "content": "How long is the table?"}]
TOOL: Final = {
    "name": "measure",
    "description": "Measures a thing.",
    "parameters": {"type": "object", "properties": {"unit": {"enum": ["cm", "m"]}}, "required": ["unit"],
                   "additionalProperties": False},
}  # fmt: skip


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The reference checkpoint with links for files, to be damaged at will."""
    place = tmp_path / "checkpoint"
    place.mkdir()
    for path in folder.iterdir():
        (place / path.name).symlink_to(path)
    return place


def _edit_config(place: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads((place / "config.json").read_text())
    (place / "config.json").unlink()
    change(fields)
    (place / "config.json").write_text(json.dumps(fields))


def _truncate(place: Path) -> None:
    weights = place / "model.safetensors"
    start = weights.read_bytes()[:100_000]
    weights.unlink()
    weights.write_bytes(start)


def _pickle(place: Path) -> None:
    (place / "model.safetensors").unlink()
    (place / "pytorch_model.bin").write_bytes(b"\x80\x04.")


DAMAGES: Final[list[tuple[Callable[[Path], object], str]]] = [
    (_truncate, "is not a whole safetensors file"),
    (_pickle, r"pickle weights \(pytorch_model.bin\).*convert them to safetensors"),
    (lambda place: (place / "model.safetensors").unlink(), "expected model.safetensors or .* found neither"),
    (lambda place: (place / "config.json").unlink(), "no config.json"),
    (lambda place: (place / "tokenizer.json").unlink(), "no tokenizer.json"),
    (lambda place: _edit_config(place, lambda fields: fields.pop("hidden_size")), "expected hidden_size .* nothing"),
    (lambda place: _edit_config(place, lambda fields: fields.update(head_dim="x")), "expected head_dim .* 'x'"),
    (lambda place: _edit_config(place, lambda fields: fields.update(num_hidden_layers=5)), "tensor names differ"),
    (lambda place: _edit_config(place, lambda fields: fields.update(architectures=["Llama"])), "architectures"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_damaged_checkpoint_is_refused_in_words(copy: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(copy)
    with pytest.raises(tm.CheckpointError, match=said) as caught:
        Engine.load(copy)
    assert str(copy) in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_broken_tokenizer_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(tm.CheckpointError, match=r"tokenizer\.json is not a tokenizer"):
        Engine.load(copy)


@pytest.mark.parametrize("source", ["/no/such/place", Path("nowhere"), "no such name", "./a/b/c"])
def test_no_checkpoint_there(source: str | Path) -> None:
    with pytest.raises(tm.CheckpointError, match="no checkpoint directory"):
        Engine.load(source)


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(tm.CheckpointError, match=r"is not a GGUF file: .* a checkpoint is a directory .* or one GGUF"):
        Engine.load(file)


def test_devices_and_dtypes_that_are_not_there() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(tm.RequestError, match="device='cuda' cannot be used here"):
            Engine.load(device="cuda")
    with pytest.raises(tm.RequestError, match="device='abacus' cannot be used here"):
        Engine.load(device="abacus")
    with pytest.raises(tm.RequestError, match="dtype='int7': expected one of float32, bfloat16, float16"):
        Engine.load(dtype="int7")


def test_digests_name_weights_and_tokenizer(reference: Engine, copy: Path) -> None:
    assert locate(copy).model_sha256 == reference.checkpoint.model_sha256
    assert locate(copy).tokenizer_sha256 == reference.checkpoint.tokenizer_sha256
    _edit_config(copy, lambda fields: fields.update(rms_norm_eps=1e-6))
    assert locate(copy).model_sha256 != reference.checkpoint.model_sha256


REFUSED: Final[list[tuple[dict[str, Any], type[Exception], str]]] = [
    ({}, tm.RequestError, "either prompt= or messages="),
    ({"prompt": "x", "messages": HELLO}, tm.RequestError, "either prompt= or messages="),
    ({"prompt": ""}, tm.RequestError, r"prompt=\(\): expected at least one token"),
    ({"prompt": "x", "mode": "turbo"}, tm.PolicyError, "unknown mode 'turbo'; known: ar, diffusion, linear_spec"),
    ({"prompt": "x", "max_tokens": 0}, tm.RequestError, "max_tokens=0: expected at least 1"),
    ({"prompt": "x", "max_tokens": -1}, tm.RequestError, "max_tokens=-1"),
    ({"prompt": "x", "max_tokens": 1.5}, tm.PolicyError, r"max_tokens=1.5: expected a whole number"),
    ({"prompt": "x", "max_tokens": 5000}, tm.PromptTooLong, r"exceeds the context of 1024 tokens"),
    ({"prompt": "word " * 3000}, tm.PromptTooLong, "shorten the prompt"),
    ({"prompt": "x", "temperature": -1}, tm.RequestError, "temperature=-1"),
    ({"prompt": "x", "temperature": math.nan}, tm.RequestError, "temperature=nan"),
    ({"prompt": "x", "temperature": "hot"}, tm.PolicyError, "temperature='hot': expected a number"),
    ({"prompt": "x", "top_p": 0.0}, tm.RequestError, "top_p=0.0"),
    ({"prompt": "x", "top_k": -1}, tm.RequestError, "top_k=-1"),
    ({"prompt": "x", "seed": -1}, tm.RequestError, "seed=-1"),
    ({"prompt": "x", "stop": [""]}, tm.RequestError, "stop="),
    ({"prompt": "x", "mode": "diffusion", "block_length": 1}, tm.RequestError, "block_length=1"),
    ({"prompt": "x", "mode": "diffusion", "threshold": 0.0}, tm.RequestError, "threshold=0.0"),
    ({"prompt": "x", "mode": "diffusion", "exact": True}, tm.PolicyError, "exact=True"),
    ({"prompt": "x", "schema": SHORT, "stop": "m"}, tm.RequestError, "stop strings cannot be combined"),
    ({"prompt": "x", "schema": {"properties": {"a": {"not": {"pattern": "x"}}}}}, tm.UnsupportedKeyword,
     "at /properties/a/not"),
    ({"prompt": "x", "schema": {"type": ["<|", "im_end", "|>"]}}, tm.SchemaError, "not a JSON Schema"),
    ({"prompt": "x", "schema": False}, tm.SchemaError, "no value"),
    ({"prompt": "x", "step": "dream"}, tm.PolicyError, "unknown step kind 'dream'"),
    ({"messages": [{"role": "user"}]}, tm.RequestError, r"messages\[0\] has no content"),
    ({"messages": [{"role": "<|im_end|>", "content": "x"}]}, tm.RequestError, "expected one of system, developer"),
    ({"messages": HELLO, "tools": [{"name": "<|im_end|>", "parameters": {}}]}, tm.RequestError, "control marker"),
    ({"messages": HELLO, "tools": [{"nome": "x"}]}, tm.SchemaError, "a tool needs a name"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "error", "said"), REFUSED)
def test_call_refused_in_words(reference: Engine, words: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        reference.generate(**words)
    assert isinstance(caught.value, tm.TrimodeError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["ar", "linear_spec", "diffusion"])
def test_schema_holds_in_every_mode(reference: Engine, mode: Mode) -> None:
    result = reference.generate(messages=HELLO, schema=SHORT, mode=mode, max_tokens=24)
    assert (result.valid, result.finish_reason) == (True, "stop")
    assert result.value == json.loads(result.text)
    assert result.plan.mode == mode
    stats = result.stats
    assert stats.accepted + stats.corrected + stats.forced == stats.output_tokens == len(result.token_ids)
    assert tuple(token for made in result.trace for token in made.tokens) == result.token_ids


def test_tools_make_a_tool_call(reference: Engine) -> None:
    result = reference.generate(messages=HELLO, tools=[TOOL], max_tokens=40)
    assert isinstance(result.value, tm.ToolCall)
    assert result.value.name == "measure"
    assert result.value.arguments["unit"] in ("cm", "m")
    assert result.plan.reason == "linear_spec: policy 'trimode' for tool_call steps"


def test_tools_beside_another_kind_are_shown_and_hold_nothing(reference: Engine) -> None:
    result = reference.generate(messages=HELLO, tools=[TOOL], step="plan", max_tokens=4)
    assert (result.value, result.valid) == (result.text, None)
    with_schema = reference.generate(messages=HELLO, tools=[TOOL], schema=SHORT, step="json", max_tokens=24)
    assert set(with_schema.value) == {"low", "unit"}


def test_prompt_is_raw_and_messages_are_templated(reference: Engine) -> None:
    raw = reference.generate("How long is the table?", max_tokens=1)
    chat = reference.generate(messages=HELLO, max_tokens=1)
    assert raw.stats.prompt_tokens == len(reference.tokenizer.encode("How long is the table?"))
    assert chat.stats.prompt_tokens > raw.stats.prompt_tokens


@pytest.mark.parametrize("mode", MODES)
def test_schema_output_ends_within_its_budget_or_is_refused(reference: Engine, mode: Mode) -> None:
    words = {"type": "array", "items": {"type": "string", "minLength": 3}, "minItems": 2}
    ask = partial(reference.generate, messages=HELLO, schema=words, mode=mode, temperature=1.5)
    with pytest.raises(BudgetTooSmall, match=r"takes \d+ tokens and 3 are allowed .* raise max_tokens") as refused:
        ask(max_tokens=3)
    assert refused.value.got == 3
    for seed in range(5):
        result = ask(max_tokens=refused.value.need, seed=seed)
        assert (result.valid, result.finish_reason) == (True, "stop")
        forced = "ended by force" in " ".join(result.notes)
        assert result.forced_close == forced == any("b" in made.origins for made in result.trace)


def test_missing_draft_adapter_is_said(reference: Engine) -> None:
    expected = reference.tokens.model.adapter is None
    notes = reference.generate("x", mode="linear_spec", max_tokens=2).notes
    assert any("linear_spec_lora" in note for note in notes) == expected
    assert not reference.generate("x", mode="ar", max_tokens=2).notes


def test_stop_string_ends_the_text_before_it(reference: Engine) -> None:
    sample = partial(reference.generate, "The table", temperature=1.0, max_tokens=12)
    texts = ((seed, sample(seed=seed).text) for seed in range(20))
    seed, whole = next((seed, text) for seed, text in texts if len(text) > 5 and text.isascii())
    stop = whole[3:5]
    cut = sample(seed=seed, stop=stop)
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"


def test_seeds_reproduce_and_differ(reference: Engine) -> None:
    sample = partial(reference.generate, "The table", temperature=1.0, max_tokens=16)
    assert sample(seed=1).token_ids == sample(seed=1).token_ids
    assert len({sample(seed=seed).token_ids for seed in range(4)}) > 1


def _prompts() -> list[tuple[Any, Any]]:
    """The conversation before the first tool call and before the last step of two episodes."""
    found = []
    for episode in episodes(2):
        steps = list(episode.steps())
        found.append((steps[1].history, episode.tools))
        found.append((steps[-1].history[-6:], episode.tools))
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("held", [False, True])
def test_one_word_changes_the_mode_and_no_token(reference: Engine, temperature: float, held: bool) -> None:
    for seed, (history, tools) in enumerate(_prompts()):
        ask = partial(
            reference.generate,
            messages=history,
            tools=tools,
            step="tool_call" if held else "prose",
            temperature=temperature,
            seed=seed,
            max_tokens=40 if held else 24,
        )
        slow, fast = ask(mode="ar"), ask(mode="linear_spec")
        assert slow.token_ids == fast.token_ids
        assert (slow.text, slow.value, slow.finish_reason) == (fast.text, fast.value, fast.finish_reason)


@pytest.mark.parametrize("text", ["a<|im_end|>b", "<|im_start|>system", "<|endoftext|><mask>"])
def test_markers_in_user_text_stay_text(reference: Engine, text: str) -> None:
    tokenizer = reference.tokenizer
    markers = {tokenizer.markup.token_to_id(marker) for marker in tokenizer.markers}
    assert not markers & set(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    plain = tokenizer.encode_chat([{"role": "user", "content": "text"}], add_generation_prompt=True, kind="prose")
    marked = tokenizer.encode_chat([{"role": "user", "content": text}], add_generation_prompt=True, kind="prose")
    assert sum(token in markers for token in plain) == sum(token in markers for token in marked)
    reference.generate(messages=[{"role": "user", "content": text}], max_tokens=1)


def test_weights_survive_a_copy(reference: Engine, folder: Path, tmp_path: Path) -> None:
    """A copied directory is the same checkpoint: same ids."""
    other = Engine.load(shutil.copytree(folder, tmp_path / "copy"))
    assert other.generate("The", max_tokens=6).token_ids == reference.generate("The", max_tokens=6).token_ids


def test_graphs_change_no_token_and_are_told(reference: Engine) -> None:
    """On a CPU the same passes over static buffers; without what begins a long prompt, of which nothing is read."""
    heard: list[int] = []
    engine = Engine.load(graphs=True, progress=lambda done, _: heard.append(done), kv_bytes=1 << 26)
    long = [{"role": "user", "content": "How long is the table? " * 60}]
    for messages in (HELLO, long):
        for mode in ("ar", "linear_spec"):
            words: dict[str, Any] = {"messages": messages, "mode": mode, "max_tokens": 12, "temperature": 1.0}
            found, expected = engine.generate(**words), reference.generate(**words)
            assert found.token_ids == expected.token_ids
            assert 0 < found.stats.graph_passes <= found.stats.forward_passes + found.stats.prefill_passes
            assert expected.stats.graph_passes == 0
    assert len(heard) == 24, "12 numbers of rows, with and without adapter; the context has one number of pages"
    assert engine.graphs.startswith("24 static buffers: ")
    assert "(unread 1)" in engine.graphs
    assert reference.graphs == "off"
    engine.close()
