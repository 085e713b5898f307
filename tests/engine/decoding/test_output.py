"""Where an output ends: the end token, the budget, and the earliest stop string, also inside one token."""

from __future__ import annotations

import pytest

from trimode.engine.decoding.output import Output
from trimode.engine.result import Rejected

PIECES = {1: "abc", 2: "b", 3: "cd", 4: ""}


def output(max_tokens: int = 10, stop: tuple[str, ...] = ()) -> Output:
    return Output(max_tokens, stop, (4,), lambda ids: "".join(PIECES[token] for token in ids))


@pytest.mark.parametrize(
    ("tokens", "stop", "kept", "text"),
    [
        ([1, 2], ("c", "b"), [1], "a"),
        ([1, 2], ("bc", "abc"), [1], ""),
        ([2, 2, 3, 2], ("bcd",), [2, 2, 3], "b"),
        ([2, 3, 3], ("dc", "cdcd"), [2, 3, 3], "b"),
        ([2, 3], ("x",), [2, 3], "bcd"),
    ],
)
def test_the_earliest_stop_string_cuts(tokens: list[int], stop: tuple[str, ...], kept: list[int], text: str) -> None:
    found = output(stop=stop)
    going = found.commit("ar", tokens, "c" * len(tokens))
    assert found.tokens == kept
    assert found.text == text
    assert going == (found.finish is None) == (stop == ("x",))


def test_what_comes_after_the_end_is_dropped_and_counted() -> None:
    found = output()
    assert not found.commit("linear_spec", [2, 4, 3, 1], "aaac", drafted=3)
    (made,) = found.rounds
    assert found.tokens == [2, 4]
    assert made.origins == "aa"
    assert made.rejected == (Rejected(token=3, reason="stop"),)
    assert made.drafted == made.accepted + len(made.rejected)
    assert found.finish == "stop"


def test_the_budget_ends_the_output_and_an_end_token_in_time_wins() -> None:
    for last, finish in ((2, "length"), (4, "stop")):
        found = output(max_tokens=2)
        assert found.commit("ar", [1], "c")
        assert found.remaining == 1
        assert not found.commit("ar", [last, 1], "cc")
        assert found.finish == finish
        assert len(found.tokens) == 2
