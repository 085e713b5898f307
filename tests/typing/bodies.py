# mypy: enable-error-code="empty-body"
"""Bodies of steps that mypy takes where nothing is switched off: read by mypy and pyright, never run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

import trimode as tm


class Order(BaseModel):
    item: str


@tm.step("json")
def order(text: str) -> Order:
    """The order in {text}"""
    return tm.ask()


@tm.step("choice")
async def decide(question: str) -> Literal["yes", "no"]:
    """{question}"""
    return tm.ask()


@tm.step
def say(text: str) -> str:
    return tm.ask(f"Say {text}")


@tm.step
def without(text: str) -> Order:  # type: ignore[empty-body]
    """{text}"""
    ...
