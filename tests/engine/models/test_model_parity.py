"""The engine's ragged, tabled forward against `transformers`' Ministral3ForCausalLM on random small models.

The reference runs whole sequences with eager attention; ours runs in chunks through `Batch` and pages out of order.
Block attention is checked with an explicit mask for the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import small
import torch
from torch import Tensor
from transformers.models.ministral3.configuration_ministral3 import Ministral3Config
from transformers.models.ministral3.modeling_ministral3 import Ministral3ForCausalLM

from trimode.engine.decoding.segment import Branch, Segment
from trimode.engine.forward.batch import Batch
from trimode.engine.kv_cache.pages import pages_for
from trimode.engine.models.adapter import PROJECTIONS
from trimode.engine.models.config import ModelConfig
from trimode.engine.models.model import Transformer
from trimode.engine.models.rope_config import RopeConfig
from trimode.engine.token_engine import TokenEngine

LENGTH = 100
ADAPTED = [*((name,) for name in PROJECTIONS), ("k_proj", "up_proj"), tuple(PROJECTIONS)]


@dataclass(frozen=True)
class Geometry:
    """What varies between the random models."""

    factor: float = 16.0
    theta: float = 1e6
    beta: float = 0.1
    hidden: int = 24
    heads: int = 4
    groups: int = 2
    dim: int = 16
    layers: int = 2
    tied: bool = False
    mscale: tuple[float, float] = (1.0, 1.0)


GEOMETRIES = [
    Geometry(),
    Geometry(factor=1.0, heads=2, groups=1),
    Geometry(factor=0.25, tied=True),
    Geometry(theta=1e9, dim=32, heads=6, groups=3, hidden=40),
    Geometry(factor=8.0, dim=6, heads=8, groups=2, layers=3, tied=True),
    Geometry(factor=4.0, heads=4, groups=4, beta=0.7, mscale=(1.0, 0.5)),
    Geometry(beta=0.0, heads=1, groups=1, hidden=8, dim=24),
]


def ours(geometry: Geometry, seed: int) -> Transformer:
    rope = RopeConfig(
        theta=geometry.theta,
        kind="yarn",
        factor=geometry.factor,
        original_max_position_embeddings=32,
        mscale=geometry.mscale[0],
        mscale_all_dim=geometry.mscale[1],
        llama_4_scaling_beta=geometry.beta,
    )
    config = ModelConfig(
        vocab_size=50,
        hidden_size=geometry.hidden,
        intermediate_size=36,
        num_hidden_layers=geometry.layers,
        num_attention_heads=geometry.heads,
        num_key_value_heads=geometry.groups,
        head_dim=geometry.dim,
        rms_norm_eps=1e-5,
        max_position_embeddings=512,
        mask_token_id=small.MASK,
        eos_token_ids=(small.EOS,),
        rope=rope,
        tie_word_embeddings=geometry.tied,
    )
    return small.model(seed, config, sharpness=3.0, shared=0.2)


def theirs(model: Transformer) -> Any:
    config, rope = model.config, model.config.rope
    parameters: dict[str, Any] = {
        "rope_type": "yarn",
        "rope_theta": rope.theta,
        "factor": rope.factor,
        "original_max_position_embeddings": rope.original_max_position_embeddings,
        "beta_fast": rope.beta_fast,
        "beta_slow": rope.beta_slow,
        "mscale": rope.mscale,
        "mscale_all_dim": rope.mscale_all_dim,
        "llama_4_scaling_beta": rope.llama_4_scaling_beta,
    }
    configure: Any = Ministral3Config
    reference: Any = Ministral3ForCausalLM(
        configure(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.rms_norm_eps,
            max_position_embeddings=config.max_position_embeddings,
            tie_word_embeddings=config.tie_word_embeddings,
            rope_parameters=parameters,
            attn_implementation="eager",
        )
    )
    names = {"encoder.": "model.", "diffusion_head.": "lm_head."}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        old = next(prefix for prefix in names if name.startswith(prefix))
        state[names[old] + name.removeprefix(old)] = tensor
    reference.load_state_dict(state)
    return reference.eval()


def reference_logits(reference: Any, tokens: Sequence[int], block_from: int | None = None) -> Tensor:
    """[T, V]; rows from `block_from` on see each other both ways."""
    size = len(tokens)
    seen = torch.ones(size, size, dtype=torch.bool).tril()
    if block_from is not None:
        seen[block_from:, block_from:] = True
    mask = torch.zeros(1, 1, size, size).masked_fill(~seen, float("-inf"))
    with torch.no_grad():
        found: Tensor = reference(input_ids=torch.tensor([list(tokens)]), attention_mask=mask).logits[0]
    return found


def run(engine: TokenEngine, segments: Sequence[Segment], tables: Sequence[list[int]]) -> list[Tensor]:
    with torch.inference_mode():
        return [rows for rows, _ in Batch(segments, tables).forward(engine.runner, engine.pool)]


def new_table(engine: TokenEngine) -> list[int]:
    """Pages for a test's tokens, in an order that is not theirs in memory."""
    return engine.pool.take(pages_for(LENGTH + 60))


def trunk(tokens: Sequence[int], start: int = 0) -> Segment:
    return Segment(start=start, trunk=tuple(tokens), read=len(tokens))


def block(tokens: Sequence[int], start: int, adapter: bool = False) -> Segment:
    """Rows that see each other both ways, all of them read."""
    return Segment(start=start, branches=(Branch(tokens=tuple(tokens), read=len(tokens), adapter=adapter),))


def feed(engine: TokenEngine, tokens: Sequence[int], table: list[int], chunks: Sequence[int]) -> Tensor:
    """Causal logits of `tokens`, prefilled up to each cut in turn."""
    cuts = [0, *chunks, len(tokens)]
    return torch.cat([run(engine, [trunk(tokens[a:b], a)], [table])[0] for a, b in pairwise(cuts)])


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=repr)
@pytest.mark.parametrize("chunks", [[], [1], [31, 64, 65], [7, 8, 9, 50, 99]], ids=repr)
def test_causal_logits_equal_the_oracle(geometry: Geometry, chunks: list[int]) -> None:
    model = ours(geometry, seed=len(chunks))
    engine, tokens = small.engine(model), small.prompt(1, LENGTH, 50)
    found = feed(engine, tokens, new_table(engine), chunks)
    expected = reference_logits(theirs(model), tokens)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=repr)
@pytest.mark.parametrize(("start", "size"), [(0, 16), (1, 2), (40, 32), (63, 33)])
def test_a_block_after_a_prefix_equals_the_oracle(geometry: Geometry, start: int, size: int) -> None:
    model = ours(geometry, seed=start)
    engine, tokens = small.engine(model), small.prompt(2, start + size, 50)
    table = new_table(engine)
    if start:
        feed(engine, tokens[:start], table, [])
    found = run(engine, [block(tokens[start:], start)], [table])[0]
    expected = reference_logits(theirs(model), tokens, block_from=start)[start:]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    causal = reference_logits(theirs(model), tokens)[start:]
    assert (found[:-1] - causal[:-1]).abs().max() > 1e-2


@pytest.mark.parametrize("geometry", GEOMETRIES[:4], ids=repr)
def test_one_ragged_pass_over_mixed_segments_equals_the_oracle(geometry: Geometry) -> None:
    model = ours(geometry, seed=3)
    engine, reference = small.engine(model), theirs(model)
    plan = [
        (0, 5, "causal"),
        (40, 32, "block"),
        (64, 1, "causal"),
        (90, 9, "block"),
        (33, 20, "causal"),
    ]
    prompts = [small.prompt(10 + index, start + size, 50) for index, (start, size, _) in enumerate(plan)]
    tables = [new_table(engine) for _ in plan]
    for tokens, table, (start, _, _) in zip(prompts, tables, plan, strict=True):
        if start:
            feed(engine, tokens[:start], table, [start // 2])
    segments = [
        (block if kind == "block" else trunk)(tokens[start:], start)
        for tokens, (start, _, kind) in zip(prompts, plan, strict=True)
    ]
    together = run(engine, segments, tables)
    for found, tokens, (start, _, kind), segment, table in zip(together, prompts, plan, segments, tables, strict=True):
        expected = reference_logits(reference, tokens, start if kind == "block" else None)[start:]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        assert torch.equal(run(engine, [segment], [table])[0], found)


def test_rows_of_a_pass_are_bitwise_those_of_one_token_passes() -> None:
    model = ours(Geometry(), seed=5)
    engine, tokens = small.engine(model), small.prompt(4, LENGTH, 50)
    whole = feed(engine, tokens, new_table(engine), [])
    single = feed(engine, tokens, new_table(engine), list(range(1, LENGTH)))
    assert torch.equal(whole, single)


def test_a_block_leaves_no_trace_in_the_cache() -> None:
    model = ours(Geometry(), seed=6)
    engine, tokens = small.engine(model), small.prompt(5, 80, 50)
    table = new_table(engine)
    first = feed(engine, tokens[:40], table, [])
    run(engine, [block(tokens[10:40], 40)], [table])
    rest = run(engine, [trunk(tokens[40:], 40)], [table])[0]
    assert torch.equal(torch.cat((first, rest)), feed(engine, tokens, new_table(engine), []))


@pytest.mark.parametrize("adapted", ADAPTED, ids=repr)
def test_the_adapter_changes_its_rows_only(adapted: Sequence[str]) -> None:
    made = small.model(7, rank=3, adapted=adapted)
    engine, tokens = small.engine(made), small.prompt(6, 30)
    plain = block(tokens, 0)
    draft = block(tokens, 0, adapter=True)
    alone = [run(engine, [segment], [new_table(engine)])[0] for segment in (plain, draft)]
    mixed = run(engine, [plain, draft, plain], [new_table(engine) for _ in range(3)])
    assert torch.equal(mixed[0], alone[0])
    assert torch.equal(mixed[2], alone[0])
    assert torch.equal(mixed[1], alone[1])
    assert (alone[0] - alone[1]).abs().max() > 1e-2


@pytest.mark.parametrize("adapted", ADAPTED, ids=repr)
def test_the_adapter_is_the_low_rank_product(adapted: Sequence[str]) -> None:
    """Draft rows alone equal the rows of a model whose matrices have the adapter in them."""
    made = small.model(8, rank=3, adapted=adapted)
    merged = small.model(8)
    for index in range(small.CONFIG.num_hidden_layers):
        for name, part in made.adapter_terms(index).items():
            low, high = part.lora_A.weight, part.lora_B.weight
            merged.encoder.layers[index].get_parameter(f"{PROJECTIONS[name]}.{name}.weight").add_(4.0 * high @ low)
    tokens = small.prompt(7, 20)
    drafted = block(tokens, 0, adapter=True)
    expected = block(tokens, 0)
    engines = small.engine(made), small.engine(merged)
    found = run(engines[0], [drafted], [new_table(engines[0])])[0]
    torch.testing.assert_close(found, run(engines[1], [expected], [new_table(engines[1])])[0], rtol=0, atol=1e-4)


def test_asking_for_a_missing_adapter_is_an_error() -> None:
    engine = small.engine(small.model(9))
    with pytest.raises(ValueError, match="has none"):
        run(engine, [block((1, 2), 0, adapter=True)], [new_table(engine)])
