"""Compiles every Triton kernel for sm_90 as its op launches it, without a GPU, and reads what it needs from the result.

    python scripts/compile_kernels.py --json docs/benchmarks/kernels-sm90.json --page docs/gpu.md

Each case calls an op on tensors of the 8B model's sizes; the launch is caught, so tiles, strides and options are those
of a real pass. `--page` puts the table between the page's two `kernels-sm90` marks.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from trimode.kernels.gpu import attention as triton_attention
from trimode.kernels.gpu import head_epilogue as triton_head
from trimode.kernels.gpu import linear as triton_linear
from trimode.kernels.gpu import lora as triton_lora
from trimode.kernels.gpu import noise as triton_noise
from trimode.kernels.gpu import norm as triton_norm
from trimode.kernels.gpu import qkv as triton_qkv
from trimode.kernels.gpu import swiglu as triton_swiglu
from trimode.kernels.gpu import verify as triton_verify
from trimode.kernels.layout import PAGE, Layout, Rotation
from trimode.kernels.quantize import Quantized

TARGET: Final = GPUTarget("cuda", 90, 32)
SHARED, REGISTERS, WARPS = 227 * 1024, 65536, 64
"""Of one sm_90 multiprocessor: bytes of shared memory that programs may use, registers, warps."""
HIDDEN, QKV, INNER, VOCABULARY, RANK = 4096, 6144, 14336, 131072, 64
QUERIES, GROUPS, DIM = 32, 8, 128
"""Sizes of the 8B model, and of a draft adapter."""
MARKS: Final = ("<!-- kernels-sm90 -->", "<!-- /kernels-sm90 -->")


@dataclass(frozen=True, slots=True)
class Resources:
    """One compiled kernel. `programs`: that fit on a multiprocessor at once; `products`: matrix instructions.

    `fused`: multiplications of numbers that are fused with an addition.
    """

    case: str
    kernel: str
    warps: int
    stages: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    programs: int
    products: list[str]
    fused: int


def rows(count: int, size: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(count, size, dtype=dtype)


def matrix(outputs: int, inputs: int, precision: str = "bf16") -> Tensor | Quantized:
    if precision == "bf16":
        return rows(outputs, inputs)
    dtype = torch.int8 if precision == "int8" else torch.float8_e4m3fn
    return Quantized(rows(outputs, inputs, dtype), torch.empty(outputs))


def cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """Every op at the shapes where it compiles to something else. A new op is one more line."""
    for count, kept in product((1, 32, 64, 128), ("bf16", "int8", "fp8")):
        yield f"head {kept}, {count} rows", partial(head, count, kept)
        yield f"gate-up {kept}, {count} rows", partial(gate_up, count, kept)
    for count in (1, 32, 128):
        yield f"qkv parts, {count} rows", partial(qkv, count)
        yield f"out + adapter, {count} rows", partial(out, count)
        yield f"qkv + adapters, {count} rows", partial(qkv_adapted, count)
        yield f"gate-up + adapters, {count} rows", partial(gate_up_adapted, count)
    yield "parts added", lambda: triton_linear.fold(torch.empty(3, 32, QKV), torch.bfloat16)
    yield "norm", lambda: triton_norm.rms_norm(rows(32, HIDDEN), rows(1, HIDDEN)[0], 1e-5)
    yield (
        "parts + residual + norm",
        lambda: triton_norm.add_rms_norm(torch.empty(4, 32, HIDDEN), rows(32, HIDDEN), rows(1, HIDDEN)[0], 1e-5),
    )

    for count in (1, 32):
        yield f"attention bf16, {count} rows", partial(attention, count, torch.bfloat16)
    yield "attention fp32, 32 rows", partial(attention, 32, torch.float32)
    yield "QKV epilogue", partial(place, None)
    yield "QKV epilogue, normed", partial(place, rows(2, DIM))
    for filtered in (False, True):
        yield f"sampling{', with filters' * filtered}", partial(sample, filtered)
    yield "sampling, with 8 runners-up", partial(sample, False, 8)
    yield "noise", lambda: triton_noise.gumbel(0, numbers(32), VOCABULARY)
    yield "verification", verify


def numbers(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.int64)


def pages(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Layout]:
    """A layer's keys and values, and a layout."""
    keys, column = torch.empty(64, GROUPS, DIM, PAGE, dtype=dtype), numbers(count)
    return keys, keys.view(64, GROUPS, PAGE, DIM), Layout(numbers(1, 64), column, column, column, column, column)


def attention(count: int, dtype: torch.dtype) -> Tensor:
    heads = torch.empty(count, QUERIES + 2 * GROUPS, DIM, dtype=dtype)
    return triton_attention.attention(heads, QUERIES, *pages(count, dtype))


def place(norms: Tensor | None) -> None:
    heads = torch.empty(32, QUERIES + 2 * GROUPS, DIM, dtype=torch.bfloat16)
    turn = Rotation(rows(32, DIM), rows(32, DIM), torch.empty(32))
    both = None if norms is None else (norms[0], norms[1])
    triton_qkv.place(heads, QUERIES, both, 1e-5, turn, *pages(32, torch.bfloat16))


def sample(filtered: bool, best: int = 0) -> tuple[Tensor, Tensor]:
    words, temperature = torch.zeros(32, dtype=torch.int32), torch.empty(32)
    top_k, top_p = (words, temperature) if filtered else (None, None)
    rule = triton_head.RowSampling(numbers(32), numbers(32), temperature, top_k, top_p, mask=words)
    masks = torch.empty(8, VOCABULARY // 32, dtype=torch.int32)
    runners_up = triton_head.RunnersUp(numbers(32, best), torch.empty(32, best)) if best else None
    banned = torch.empty(VOCABULARY, dtype=torch.bool)
    return triton_head.sample(rows(32, VOCABULARY), banned, masks, rule, runners_up=runners_up)


def verify() -> tuple[Tensor, Tensor]:
    ring = triton_verify.RejectedDrafts.empty(8, 64, 32, torch.device("cpu"))
    return triton_verify.verify(numbers(8, 32), numbers(8), numbers(8, 33), numbers(8), ring)


def head(count: int, kept: str) -> Tensor:
    return triton_linear.linear(rows(count, HIDDEN), matrix(VOCABULARY, HIDDEN, kept))


def gate_up(count: int, kept: str) -> Tensor:
    return triton_swiglu.gated(rows(count, HIDDEN), matrix(2 * INNER, HIDDEN, kept))


def qkv(count: int) -> Tensor:
    return triton_linear.parts(rows(count, HIDDEN), rows(QKV, HIDDEN))


def out(count: int) -> Tensor:
    adapter = rows(RANK, HIDDEN), rows(HIDDEN, RANK)
    return triton_lora.adapted_parts(rows(count, HIDDEN), rows(HIDDEN, HIDDEN), adapter, torch.empty(count))


def qkv_adapted(count: int) -> Tensor:
    return triton_lora.adapted_parts(rows(count, HIDDEN), rows(QKV, HIDDEN), joined(3, QKV), torch.empty(count))


def gate_up_adapted(count: int) -> Tensor:
    x = rows(count, HIDDEN)
    delta = triton_lora.delta(x, joined(2, 2 * INNER), torch.empty(count))
    return triton_swiglu.gated(x, rows(2 * INNER, HIDDEN), delta)


def joined(terms: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Matrices of adapters of rank 128 (UNO's) at several projections, as one product takes them."""
    return rows(terms * 128, HIDDEN), rows(outputs, terms * 128)


def main() -> None:
    args = arguments()
    found = [made for name, call in cases() if args.only in name for made in compiled(name, call)]
    report = {"target": "sm_90", "triton": triton.__version__, "kernels": [asdict(made) for made in found]}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.page:
        head, rest = args.page.read_text(encoding="utf-8").split(MARKS[0])
        tail = rest.split(MARKS[1])[1]
        args.page.write_text(f"{head}{MARKS[0]}\n{table(found)}\n{MARKS[1]}{tail}", encoding="utf-8")
    print(table(found))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path)
    return parser.parse_args()


def compiled(case: str, call: Callable[[], object]) -> list[Resources]:
    """What each kernel needs that `call` launches, in order; nothing runs."""
    log = io.StringIO()
    with caught() as kernels, redirect_stdout(log):
        call()
    spilled = [
        sum(map(int, pair)) for pair in re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill", log.getvalue())
    ]
    registers = [int(number) for number in re.findall(r"Used (\d+) registers", log.getvalue())]
    return [resources(case, *one) for one in zip(kernels, registers, spilled, strict=True)]


@contextmanager
def caught() -> Generator[list[Any]]:
    """Launches become compilations for TARGET; yields the list that they are added to."""
    found: list[Any] = []
    launch = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        del grid, warmup
        # A kernel from the cache would leave nothing in the assembler's log.
        self.device_caches.clear()
        found.append(launch(self, *args, grid=(1,), warmup=True, **options))
        return found[-1]

    driver: Any = SimpleNamespace(
        get_current_target=lambda: TARGET, get_current_device=lambda: 0, get_current_stream=lambda _device: 0
    )
    triton.runtime.driver.set_active(driver)
    knobs.nvidia.dump_ptxas_log = True
    knobs.compilation.always_compile = True
    JITFunction.run = compile_only
    try:
        yield found
    finally:
        JITFunction.run = launch


def resources(case: str, kernel: Any, registers: int, spilled: int) -> Resources:
    held, shared = kernel.metadata, kernel.metadata.shared
    by_registers = REGISTERS // (-(-registers // 8) * 8 * 32 * held.num_warps)
    by_shared = SHARED // (shared + 1024)
    return Resources(
        case=case,
        kernel=held.name,
        warps=held.num_warps,
        stages=held.num_stages,
        registers=registers,
        spilled_bytes=spilled,
        shared_bytes=shared,
        programs=min(by_registers, by_shared, WARPS // held.num_warps),
        products=sorted(set(re.findall(r"(?:wgmma\.mma_async|mma\.sync)[\w.]*\.(m\d+n\d+k\d+)", kernel.asm["ptx"]))),
        fused=len(re.findall(r"\bfma\.", kernel.asm["ptx"])),
    )


def table(found: list[Resources]) -> str:
    lines = [
        "| case | kernel | warps | registers | spilled bytes | shared KiB | programs an SM | matrix instruction |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.case} | `{r.kernel}` | {r.warps} | {r.registers} | {r.spilled_bytes} | {r.shared_bytes / 1024:.0f} "
        f"| {r.programs} | {', '.join(r.products) or '-'} |"
        for r in found
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
