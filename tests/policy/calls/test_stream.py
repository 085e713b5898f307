"""Streams and tasks on the reference checkpoint: pieces add up to the text, and who leaves early frees everything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import trimode as tm
from trimode.engine.jobs import Update
from trimode.engine.result import DecodeResult, Mode
from trimode.policy.calls.engine import Engine
from trimode.policy.calls.stream import MASKED, IncrementalDetokenizer, StreamEvent

ASK: Final = [{"role": "user", "content": "How long is the table, and who made it?"}]
LONG: Final[dict[str, Any]] = {
    "messages": ASK,
    "schema": {"type": "string", "minLength": 300, "maxLength": 310},
    "max_tokens": 400,
}
"""A call that cannot be short."""
MODES: Final[list[Mode]] = ["ar", "linear_spec", "quadratic_spec", "diffusion"]
QUICK = settings(deadline=None, derandomize=True, max_examples=200)


def final(events: Sequence[StreamEvent]) -> str:
    return "".join(event.text for event in events if not event.provisional)


@pytest.mark.parametrize("mode", MODES)
def test_pieces_add_up_to_the_text(reference: Engine, mode: Mode) -> None:
    whole = reference.generate(messages=ASK, mode=mode, max_tokens=40)
    events = list(reference.stream(messages=ASK, mode=mode, max_tokens=40))
    assert final(events) == whole.text
    last = events[-1].result
    assert last is not None
    assert last.token_ids == whole.token_ids
    assert all(event.result is None for event in events[:-1])
    assert any(event.provisional for event in events) == (mode == "diffusion")
    assert len([event for event in events if event.text and not event.provisional]) > 1


@pytest.mark.parametrize("mode", MODES)
def test_a_streamed_schema_is_held(reference: Engine, mode: Mode) -> None:
    schema = {"enum": ["a rather long word", "another long word"]}
    events = list(reference.stream(messages=ASK, schema=schema, mode=mode, max_tokens=40))
    result = events[-1].result
    assert result is not None
    assert result.value in schema["enum"]
    assert final(events) == result.text


def test_leaving_a_stream_frees_it(reference: Engine, spans: InMemorySpanExporter) -> None:
    stream = reference.stream(**LONG)
    assert next(stream).text
    stream.close()
    span = spans.get_finished_spans()[-1]
    assert span.attributes is not None
    assert span.attributes["error.type"] == "trimode.engine.errors.CallCancelled"
    assert idle(reference)


def test_an_error_in_the_loop_frees_the_stream(reference: Engine) -> None:
    def fail(event: StreamEvent) -> None:
        raise ZeroDivisionError(event.text)

    with contextlib.closing(reference.stream(**LONG)) as stream, pytest.raises(ZeroDivisionError):
        fail(next(stream))
    assert idle(reference)


def test_tasks_stream_too(reference: Engine) -> None:
    whole = reference.generate(messages=ASK, max_tokens=30)

    async def pieces() -> list[StreamEvent]:
        return [event async for event in reference.astream(messages=ASK, max_tokens=30)]

    async def main() -> list[list[StreamEvent]]:
        return list(await asyncio.gather(pieces(), pieces(), pieces()))

    for events in asyncio.run(main()):
        assert final(events) == whole.text


def test_leaving_an_async_stream_frees_it(reference: Engine) -> None:
    async def main() -> None:
        async with contextlib.aclosing(reference.astream(**LONG)) as stream:
            async for event in stream:
                assert event.text
                break

    asyncio.run(main())
    assert idle(reference)


def test_a_cancelled_task_leaves_nothing(reference: Engine, spans: InMemorySpanExporter) -> None:
    async def main() -> None:
        task = asyncio.create_task(reference.agenerate(**LONG))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    span = spans.get_finished_spans()[-1]
    assert span.attributes is not None
    assert span.attributes["error.type"] == "trimode.engine.errors.CallCancelled"
    assert idle(reference)


def test_async_steps_decode_together(reference: Engine) -> None:
    @tm.step("prose", max_tokens=12)
    async def talk(topic: str) -> str:
        """Say something about {topic}."""
        ...

    async def main() -> list[str]:
        with tm.session(reference):
            return list(await asyncio.gather(*(talk(topic) for topic in ("tea", "rain", "trains"))))

    before = reference.tokens.scheduler.passes
    texts = asyncio.run(main())
    assert len(texts) == 3
    assert reference.tokens.scheduler.passes - before < 3 * 12


def test_a_wrong_word_is_named(reference: Engine) -> None:
    words: dict[str, Any] = {"temprature": 1}
    with pytest.raises(tm.PolicyError, match="unknown argument 'temprature'; known: prompt, block_length"):
        reference.generate(messages=ASK, **words)


def idle(engine: Engine) -> bool:
    """Whether nothing runs, once one more pass has gone by."""
    engine.generate("a", max_tokens=1)
    scheduler = engine.tokens.scheduler
    return not scheduler.running and not scheduler.waiting


EMOJI: Final = "\U0001f600".encode()
PIECES: Final = [
    b"a",
    b"b",
    b"ab",
    "é".encode(),
    "é".encode()[:1],
    "é".encode()[1:],
    EMOJI[:2],
    EMOJI[2:],
    b"\x80",
    b" ",
]


def decoded(ids: Sequence[int]) -> str:
    return b"".join(PIECES[token] for token in ids).decode(errors="replace")


@given(
    ids=st.lists(st.integers(0, len(PIECES) - 1), max_size=25),
    cuts=st.lists(st.integers(0, 25), max_size=8),
    stops=st.lists(st.sampled_from(["ab", "abba", "b a", "é", "aab"]), max_size=2),
)
@QUICK
def test_nothing_is_sent_that_the_text_does_not_keep(ids: list[int], cuts: list[int], stops: list[str]) -> None:
    text = decoded(ids)
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    text = text[: min(found)] if found else text
    growing = IncrementalDetokenizer(decoded, stops)
    sent = ""
    for cut in sorted(cuts):
        sent += final(list(growing.feed(Update(tuple(ids[:cut]), ()))))
        assert text.startswith(sent)
        assert sent == growing.sent


def test_tentative_slots_are_shown_in_place() -> None:
    growing = IncrementalDetokenizer(decoded, ())
    (event,) = growing.feed(Update((), (None, 0, 3, None, None, 1)))
    assert event.provisional
    assert event.text == f"{MASKED}aé{MASKED}{MASKED}b"
    assert not list(growing.feed(Update((), (None, 0, 3, None, None, 1))))


def test_the_result_knows_its_parts(reference: Engine) -> None:
    result = reference.generate(messages=ASK, max_thinking_tokens=5, max_tokens=20)
    assert result.thinking
    assert "</think>" not in result.thinking + result.answer
    assert isinstance(result.decoded, DecodeResult)
    schema = {"enum": ["one", "two"]}
    for mode in MODES:
        held = reference.generate(messages=ASK, max_thinking_tokens=5, max_tokens=30, schema=schema, mode=mode)
        assert held.value in ("one", "two")
        assert held.answer == f'"{held.value}"'


def test_choices_are_scored_whole(reference: Engine) -> None:
    options = ["yes", "no", "no way, never"]
    chosen = reference.choice(options, messages=ASK)
    alone = [reference.choice([option], messages=ASK).logprobs[0] for option in options]
    assert list(chosen.logprobs) == alone
    assert sum(chosen.probabilities) == pytest.approx(1)
    assert chosen.text == options[alone.index(max(alone))]
    with pytest.raises(tm.RequestError, match="each of them once"):
        reference.choice(["a", "a"], messages=ASK)


def test_a_gap_is_filled_within_a_block(reference: Engine) -> None:
    filled = reference.infill("The table is", " long, and we like it.", 5)
    assert 1 <= len(filled.token_ids) <= 5
    assert filled.finish_reason == "stop"
    assert not filled.notes
    cut = reference.infill("The table is", " long and wide and high and old and new." * 4, 5)
    assert any("the model saw the first 26 of the suffix's" in note for note in cut.notes)
    with pytest.raises(tm.RequestError, match="at most 30 tokens"):
        reference.infill("The table is", " long", 31)
