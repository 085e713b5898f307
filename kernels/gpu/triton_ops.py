"""The ops of `kernels/reference` in Triton, for CUDA devices; or in Triton's interpreter, slowly, anywhere.

Knows blocks and layouts. A block is ten launches, where rows may be draft rows one more for each product with an
adapter: QKV and the sum of its parts, head norms and cache, attention (two), output, norm, SwiGLU, down, norm. Parts of
the output and down products are added in the norm that follows, together with the residual. Row-invariant, as each op
is. `head_epilogue.sample` chooses the tokens of all requests of a pass in one launch; they are read by one copy, which
is a pass's only wait. Ops that a block does not use on their own are the reference's in torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from ..block import adapter_of, logits_and_tokens
from ..layout import Block, Choice, Layout, Rotation, SampledTokens, Stack
from ..reference.noise import gumbel as gumbel
from ..reference.torch_ops import keep as keep
from ..reference.torch_ops import lookup as lookup
from ..reference.torch_ops import prepare as prepare
from ..reference.torch_ops import prepare_adapter as prepare_adapter
from ..reference.torch_ops import rotate_heads as rotate_heads
from ..reference.torch_ops import swiglu as swiglu
from .attention import attention as attention
from .choose_tokens import StaticSampler
from .choose_tokens import begin as begin
from .choose_tokens import choose as choose
from .choose_tokens import read as read
from .linear import fold, linear, parts
from .lora import delta_of
from .norm import add_rms_norm, rms_norm
from .numerics import INTERPRETED as INTERPRETED
from .qkv import place
from .swiglu import gated

name = "triton"
row_tile = 1
queued = True
packing: str = ""
packer: None = None
exact = True
static_sampler = StaticSampler


def forward(
    x: Tensor,
    stack: Stack,
    rotation: Rotation,
    flags: Tensor | None,
    keys: Tensor,
    values: Tensor,
    layout: Layout,
    read: Tensor,
    choices: Sequence[Choice],
) -> tuple[Tensor, list[SampledTokens]]:
    """Runs a pass; see `block.forward`."""
    # Triton launches on the thread's current device, whatever device the tensors are on.
    with torch.cuda.device_of(x):
        x = _through(x, stack.blocks, rotation, flags, keys, values, layout)
        return logits_and_tokens(sys.modules[__name__], x, stack, read, choices)


def _through(
    x: Tensor,
    blocks: Sequence[Block],
    rotation: Rotation,
    flags: Tensor | None,
    keys: Tensor,
    values: Tensor,
    layout: Layout,
) -> Tensor:
    """Returns x [T, E] after all blocks."""
    normed = rms_norm(x, blocks[0].norms[0], blocks[0].eps, blocks[0].norm_groups)
    for index, (block, k, v) in enumerate(zip(blocks, keys, values, strict=True)):
        adapter = adapter_of(block, flags)
        qkv = linear(normed, block.qkv, None, delta_of(normed, adapter.qkv, flags)).unflatten(-1, (-1, block.dim))
        place(qkv, block.queries, block.head_norms, block.eps, rotation, k, v, layout)
        mixed = attention(qkv, block.queries, k, v, layout).flatten(1)
        out = parts(mixed, block.out, delta=delta_of(mixed, adapter.out, flags))
        x, normed = add_rms_norm(out, x, block.norms[1], block.eps, block.norm_groups)
        inner = gated(normed, block.gate_up, delta_of(normed, adapter.gate_up, flags))
        down = parts(inner, block.down, delta=delta_of(inner, adapter.down, flags))
        if index + 1 < len(blocks):
            after = blocks[index + 1]
            x, normed = add_rms_norm(down, x, after.norms[0], after.eps, after.norm_groups)
        else:
            x = fold(down, x.dtype, x)
    return x
