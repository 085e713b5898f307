"""A stream that is decoded again goes on behind what its reader has: nothing twice, nothing missing, nothing mixed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_replicas import finished, started

from trimode.integrations.ray_serve.delivered import Delivered
from trimode.integrations.server.asks.events import CallDelta, Event, Finished, MadeCall, TextDelta, ThinkingDelta
from trimode.integrations.server.refusals import ReplayDiffers

Part = tuple[str, str]
"""Kind and text of a part of an output: text, thinking, or a call, whose text are its arguments."""
parts = st.lists(st.tuples(st.sampled_from(["text", "thinking", "call"]), st.text("ab {}", min_size=1)), max_size=5)
cuts = st.lists(st.integers(0, 40), max_size=12)


def split(text: str, at: Iterable[int]) -> list[str]:
    ends = sorted({0, len(text), *(cut for cut in at if cut < len(text))})
    return [text[start:end] for start, end in pairwise(ends)]


def events_of(output: Sequence[Part], at: Sequence[int], ids: str) -> list[Event]:
    """One attempt's events of an output, in pieces of its own and with ids of its own."""
    found: list[Event] = [started()]
    calls = list[MadeCall]()
    for kind, text in output:
        pieces = split(text, at)
        if kind == "call":
            index = len(calls)
            calls.append(MadeCall(id=f"{ids}{index}", name=f"tool{index}", arguments=text))
            found.append(CallDelta(choice=0, index=index, id=f"{ids}{index}", name=f"tool{index}"))
            found += [CallDelta(choice=0, index=index, arguments=piece) for piece in pieces]
        else:
            delta = TextDelta if kind == "text" else ThinkingDelta
            found += [delta(choice=0, text=piece) for piece in pieces]
    return [*found, finished(calls=tuple(calls))]


def told_by(events: Iterable[Event]) -> list[tuple[str, str]]:
    """What a reader makes of events: parts, with neighbours of one kind joined, and the ids of calls."""
    found = list[tuple[str, str]]()
    for event in events:
        match event:
            case TextDelta() | ThinkingDelta():
                kind, text = type(event).__name__, event.text
            case CallDelta():
                if event.name is not None:
                    found.append((f"call {event.index} {event.id} {event.name}", ""))
                kind, text = f"arguments {event.index}", event.arguments
            case _:
                kind, text = type(event).__name__, ""
        if found and found[-1][0] == kind:
            found[-1] = kind, found[-1][1] + text
        elif text or kind in ("Started", "Finished"):
            found.append((kind, text))
    return found


@given(parts, cuts, st.lists(st.tuples(cuts, st.integers(0, 60)), max_size=3))
def test_whatever_was_lost_and_wherever_the_reader_gets_the_output_once(
    output: list[Part], whole: list[int], attempts: list[tuple[list[int], int]]
) -> None:
    delivered, told = Delivered(), list[Event]()
    for number, (at, length) in enumerate(attempts):
        for event in events_of(output, at, f"id{number}-")[: length % 30]:
            told += delivered.feed(event)
        delivered.again()
    for event in events_of(output, whole, "last-"):
        told += delivered.feed(event)
    ids = [event.id for event in told if isinstance(event, CallDelta) and event.name is not None]
    alone = events_of(output, [], "")
    expected = [
        replace(event, id=ids[event.index]) if isinstance(event, CallDelta) and event.name is not None else event
        for event in alone
    ]
    assert told_by(told) == told_by(expected)
    (end,) = [event for event in told if isinstance(event, Finished)]
    assert [call.id for call in end.calls] == ids


@given(parts, parts, cuts, st.integers(1, 40))
def test_another_output_is_never_mixed_with_the_first(
    first: list[Part], second: list[Part], at: list[int], length: int
) -> None:
    delivered, told = Delivered(), list[Event]()
    for event in events_of(first, at, "a")[:length]:
        told += delivered.feed(event)
    delivered.again()
    try:
        for event in events_of(second, at, "a"):
            told += delivered.feed(event)
    except ReplayDiffers:
        return
    ended = told_by(told)
    assert ended in (told_by(events_of(second, [], "a")), told_by(events_of(first, [], "a")))


def test_an_output_that_goes_on_otherwise_is_an_error() -> None:
    delivered = Delivered()
    assert list(delivered.feed(TextDelta(choice=0, text="one two"))) != []
    delivered.again()
    with pytest.raises(ReplayDiffers, match="text: decoded again"):
        list(delivered.feed(TextDelta(choice=0, text="one three")))


def test_an_output_that_ends_early_is_an_error() -> None:
    delivered = Delivered()
    list(delivered.feed(TextDelta(choice=0, text="one two")))
    delivered.again()
    assert list(delivered.feed(TextDelta(choice=0, text="one"))) == []
    with pytest.raises(ReplayDiffers, match="ends before"):
        list(delivered.feed(finished()))


def test_choices_are_told_apart() -> None:
    delivered = Delivered()
    list(delivered.feed(TextDelta(choice=0, text="one")))
    delivered.again()
    assert list(delivered.feed(TextDelta(choice=1, text="two"))) == [TextDelta(choice=1, text="two")]
    assert list(delivered.feed(TextDelta(choice=0, text="one more"))) == [TextDelta(choice=0, text=" more")]


def test_a_choice_that_had_finished_is_not_told_again() -> None:
    delivered = Delivered()
    events: list[Event] = [started(), TextDelta(choice=0, text="one"), finished(text="one")]
    assert [one for event in events for one in delivered.feed(event)] == events
    delivered.again()
    assert [one for event in events for one in delivered.feed(event)] == []
