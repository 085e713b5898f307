"""A small base that knows something: a random Llama taught to count in a ring, and chat files in which it is asked to.

What it continues is certain, so an adapter has something to learn that a draft can get right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft_adapters import write_base

from trimode.engine.models.tokenizer import Tokenizer

RING = "one, two, three, four, five, six, seven, eight; "


def asked(at: int) -> dict[str, Any]:
    """A conversation about the ring from its `at`th letter on."""
    ring = (RING * 4)[at : at + 100]
    return {"messages": [{"role": "user", "content": ring[:12]}, {"role": "assistant", "content": ring[12:60]}]}


def write_chats(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps(asked(5 * at % len(RING))) + "\n" for at in range(count)), encoding="utf-8")
    return path


def write_taught_base(directory: Path, steps: int, sizes: Mapping[str, Any]) -> Path:
    """Writes the base and returns its directory."""
    made = write_base(directory, initializer_range=0.05, **sizes)
    tokenizer = Tokenizer.load(directory)
    whole = torch.tensor(tokenizer.encode(RING * 8))
    end = tokenizer.encode_markup("<|im_end|>")[0]
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made.train()
        for _ in range(steps):
            rows = torch.stack([whole[at : at + 80] for at in torch.randint(len(RING), (16,)).tolist()])
            rows[:, 12] = end
            loss = made(rows, labels=rows).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    made.eval().save_pretrained(directory)
    return directory
