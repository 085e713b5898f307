"""`config.json` of the NLD format: what is read, what is refused and how, and the rotary frequencies it leads to."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from trimode.engine.errors import CheckpointError
from trimode.engine.models import rope
from trimode.engine.models.config import ModelConfig
from trimode.engine.models.rope_config import RopeConfig

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
# The released 8B instruct model (nld.md, section 1).
RELEASED: dict[str, Any] = {
    "architectures": ["NemotronLabsDiffusionModel"],
    "vocab_size": 131072,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 34,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 262144,
    "mask_token_id": 100,
    "block_size": 32,
    "eos_token_id": 11,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": None,
    "hidden_act": "silu",
    "rope_parameters": YARN,
}
REQUIRED = [
    "architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "mask_token_id", "eos_token_id",
    "rope_parameters",
]  # fmt: skip


def read(**changes: Any) -> ModelConfig:
    return ModelConfig.from_dict(RELEASED | changes, "config.json")


def test_a_released_config_is_read_whole() -> None:
    config = read()
    assert (config.head_dim, config.num_key_value_heads, config.rms_norm_eps) == (128, 8, 1e-5)
    assert (config.mask_token_id, config.block_size, config.eos_token_ids) == (100, 32, (11,))
    assert config.rope == RopeConfig(
        theta=1e6,
        kind="yarn",
        factor=16.0,
        original_max_position_embeddings=16384,
        mscale=1.0,
        mscale_all_dim=1.0,
        llama_4_scaling_beta=0.1,
    )


@pytest.mark.parametrize("own", [3, "vendor", {"selection": "vendor"}, {"diffusion_selection": "best"}, [], None])
def test_words_of_our_own_that_say_nothing_known_are_refused(own: object) -> None:
    with pytest.raises(CheckpointError, match=r"expected trimode(\.diffusion_selection)? to be"):
        read(trimode=own)


def test_optional_keys_have_the_formats_defaults() -> None:
    fields = {key: RELEASED[key] for key in REQUIRED} | {"rope_parameters": {"rope_theta": 1e6}}
    config = ModelConfig.from_dict(fields)
    assert (config.block_size, config.tie_word_embeddings, config.rope.kind) == (32, False, "default")
    assert read(eos_token_id=[11, 2]).eos_token_ids == (11, 2)


def test_the_old_name_of_the_rope_type_counts() -> None:
    old = {key: value for key, value in YARN.items() if key != "rope_type"}
    assert read(rope_parameters={**old, "type": "yarn"}).rope.kind == "yarn"


@pytest.mark.parametrize("key", REQUIRED)
def test_each_missing_key_is_named(key: str) -> None:
    fields = {name: value for name, value in RELEASED.items() if name != key}
    with pytest.raises(CheckpointError, match=rf"config\.json: expected {key}.*found"):
        ModelConfig.from_dict(fields, "config.json")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"architectures": ["GPT2LMHeadModel"]}, r"one of 'NemotronLabsDiffusionModel', .*, found \['GPT2LMHeadModel'\]"),
    ({"architectures": [["LlamaForCausalLM"]]}, r"found \[\['LlamaForCausalLM'\]\]"),
    ({"architectures": 3}, "expected architectures to hold one of 'NemotronLabsDiffusionModel', .*, found 3"),
    ({"attention_bias": True}, "expected attention_bias to be False, found True"),
    ({"mlp_bias": True}, "expected mlp_bias to be False, found True"),
    ({"sliding_window": 4096}, "expected sliding_window to be None, found 4096"),
    ({"hidden_act": "gelu"}, "expected hidden_act 'silu', found 'gelu'"),
    ({"vocab_size": "131072"}, "expected vocab_size to be a non-negative int, found '131072'"),
    ({"vocab_size": 1.5}, r"expected vocab_size to be a non-negative int, found 1\.5"),
    ({"hidden_size": True}, "expected hidden_size to be a non-negative int, found True"),
    ({"num_hidden_layers": -1}, "expected num_hidden_layers to be a non-negative int, found -1"),
    ({"num_key_value_heads": 0}, "expected num_key_value_heads to be positive, found 0"),
    ({"num_key_value_heads": 5}, "num_attention_heads=32 is no multiple of num_key_value_heads=5"),
    ({"head_dim": 127}, "expected head_dim to be even, found 127"),
    ({"block_size": "many"}, "expected block_size to be a non-negative int, found 'many'"),
    ({"mask_token_id": 131072}, "expected mask_token_id below vocab_size=131072, found 131072"),
    ({"eos_token_id": 131072}, "expected eos_token_id below vocab_size=131072, found 131072"),
    ({"eos_token_id": []}, r"expected eos_token_id to be an id or a list of ids, found \[\]"),
    ({"eos_token_id": "</s>"}, "expected eos_token_id to be an id or a list of ids, found '</s>'"),
    ({"rms_norm_eps": None}, "expected rms_norm_eps to be a non-negative float, found None"),
    ({"rope_parameters": {"factor": 2}}, "expected rope_parameters with rope_theta inside, found"),
    (
        {"rope_parameters": {**YARN, "rope_type": "longrope"}},
        "expected rope_type to be one of 'default', 'yarn', 'llama3', found 'longrope'",
    ),
    ({"rope_parameters": {**YARN, "rope_type": ["yarn"]}}, r"expected rope_type to be one of .*, found \['yarn'\]"),
    (
        {"rope_parameters": {"rope_theta": 1e6, "type": "yarn"}},
        "rope_parameters.factor with rope_type 'yarn', found no",
    ),
    ({"rope_parameters": {**YARN, "factor": 0}}, "factor > 0"),
    ({"rope_parameters": {**YARN, "factor": "16"}}, "expected factor to be a non-negative float, found '16'"),
    ({"rope_parameters": {**YARN, "rope_theta": "1e6"}}, "expected rope_theta to be a non-negative float, found '1e6'"),
    ({"rope_parameters": {**YARN, "rope_theta": 1}}, "rope_theta > 1"),
    ({"rope_parameters": {**YARN, "original_max_position_embeddings": 0}}, "original_max_position_embeddings > 0"),
    ({"rope_parameters": {"rope_theta": 1e6, "llama_4_scaling_beta": 0.1}}, "original_max_position_embeddings > 0"),
    ({"rope_parameters": {**YARN, "truncate": False}}, "expected rope_parameters.truncate to be True, found False"),
    ({"rope_parameters": {**YARN, "partial_rotary_factor": 0.5}}, "partial_rotary_factor to be 1, found 0.5"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_each_refusal_says_what_was_expected_and_found(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(**changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is not JSON"), (b"\xff\xfe", "is not JSON"), (b"[1]", "expected a JSON object, found list")],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.load(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json in"):
        ModelConfig.load(tmp_path)


def test_a_file_is_read_like_its_fields(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RELEASED), encoding="utf-8")
    assert ModelConfig.load(tmp_path) == read()


def blend(theta: float, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """YaRN frequencies of the released geometry, and the plain ones."""
    kind = RopeConfig(theta=theta, kind="yarn", factor=factor, original_max_position_embeddings=16384)
    return rope.inverse_frequencies(kind, 128), rope.inverse_frequencies(RopeConfig(theta=theta), 128)


@pytest.mark.parametrize(("theta", "low", "high"), [(1e6, 20, 37), (1e9, 13, 25)])
@pytest.mark.parametrize("factor", [16.0, 0.25])
def test_yarn_blends_between_its_correction_dimensions(theta: float, low: int, high: int, factor: float) -> None:
    scaled, plain = blend(theta, factor)
    ratio = scaled / plain
    torch.testing.assert_close(ratio[: low + 1], torch.ones(low + 1))
    torch.testing.assert_close(ratio[high:], torch.full((64 - high,), 1 / factor))
    share = (torch.arange(low, high + 1) - low) / (high - low)
    torch.testing.assert_close(ratio[low : high + 1], 1 - share + share / factor)


def test_a_factor_below_one_raises_the_slow_frequencies() -> None:
    scaled, plain = blend(1e6, 0.25)
    torch.testing.assert_close(scaled[40:], 4 * plain[40:])


def test_plain_frequencies_are_powers_of_theta() -> None:
    _, plain = blend(1e6, 1.0)
    expected = [1e6 ** (-2 * i / 128) for i in range(64)]
    torch.testing.assert_close(plain, torch.tensor(expected))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (RopeConfig(theta=1e6), 1.0),
        (RopeConfig(theta=1e6, kind="yarn", factor=16, mscale=1.0, mscale_all_dim=1.0), 1.0),
        (RopeConfig(theta=1e6, kind="yarn", factor=16), 0.1 * math.log(16) + 1),
        (RopeConfig(theta=1e6, kind="yarn", factor=0.25), 1.0),
        (RopeConfig(theta=1e6, kind="yarn", factor=16, attention_factor=1.25), 1.25),
        (
            RopeConfig(theta=1e6, kind="yarn", factor=4, mscale=1.0, mscale_all_dim=0.5),
            (0.1 * math.log(4) + 1) / (0.05 * math.log(4) + 1),
        ),
    ],
)
def test_the_attention_factor_follows_mscale(kind: RopeConfig, expected: float) -> None:
    assert rope.attention_factor(kind) == pytest.approx(expected)


def test_queries_grow_a_step_at_each_original_context() -> None:
    kind = RopeConfig(theta=1e6, original_max_position_embeddings=16384, llama_4_scaling_beta=0.1)
    scale = rope.query_scale(kind, torch.tensor([0, 16383, 16384, 32767, 32768]))
    assert scale is not None
    expected = [1.0, 1.0, 1 + 0.1 * math.log(2), 1 + 0.1 * math.log(2), 1 + 0.1 * math.log(3)]
    torch.testing.assert_close(scale, torch.tensor(expected))
    assert rope.query_scale(RopeConfig(theta=1e6), torch.tensor([1])) is None


def test_angles_that_are_kept_are_those_of_their_positions() -> None:
    kind = RopeConfig(theta=1e4, original_max_position_embeddings=512, llama_4_scaling_beta=0.1)
    frequencies = rope.inverse_frequencies(kind, 12)
    angles, positions = rope.Angles(kind, frequencies, 1.25, torch.float32), torch.tensor([0, 7, 1023])
    early = angles.at(positions, 1024)
    later = angles.at(torch.tensor([1024, 5000, 7]), 5001)
    cos, sin = rope.cos_sin(frequencies, torch.tensor([1024, 5000, 7]), 1.25)
    torch.testing.assert_close(later, (cos, sin, rope.query_scale(kind, torch.tensor([1024, 5000, 7]))))
    for before, after in zip(early, angles.at(positions, 1024), strict=True):
        assert before is not None
        assert after is not None
        assert torch.equal(before, after), "more positions change none of the old ones"
    assert rope.Angles(RopeConfig(theta=1e4), frequencies, 1.0, torch.float32).at(positions, 1024)[2] is None
