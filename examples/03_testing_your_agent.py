"""Tests of an agent's own logic, without a model: steps answer what the test says."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

import trimode as tm
from trimode.testing import FakeEngine, in_turn


class Review(BaseModel):
    verdict: Literal["good", "bad"]
    reason: str


@tm.step("prose")
def draft(topic: str) -> str:
    """Write one sentence about {topic}."""
    return tm.ask()


@tm.step("json")
def review(text: str) -> Review:
    """Review: {text}"""
    return tm.ask()


def written(topic: str, tries: int = 3) -> str:
    """The code under test: drafts until a review is good."""
    for _ in range(tries):
        text = draft(topic)
        if review(text).verdict == "good":
            return text
    raise RuntimeError("no draft was good")


def test_a_bad_draft_is_written_again() -> None:
    bad, good = Review(verdict="bad", reason="dull"), Review(verdict="good", reason="")
    engine = FakeEngine({"draft": in_turn("Tea is wet.", "Tea is a small holiday."), "review": in_turn(bad, good)})
    with tm.session(engine):
        assert written("tea") == "Tea is a small holiday."
    assert [call.step for call in engine.calls] == ["draft", "review", "draft", "review"]


def test_it_gives_up() -> None:
    with tm.session(FakeEngine({"review": Review(verdict="bad", reason="dull")})) as session:
        try:
            written("tea", tries=2)
        except RuntimeError:
            print("gave up after", len(session.results), "steps")


if __name__ == "__main__":
    test_a_bad_draft_is_written_again()
    test_it_gives_up()
