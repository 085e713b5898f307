"""Prompts in token ids, prompts that go on, prompts that are too long or trimmed, and how long that takes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models

import trimode as tm
from trimode.engine.models.tokenizer import Tokenizer
from trimode.policy.calls.engine import Engine
from trimode.policy.conversation.trim import trimmed
from trimode.testing import FakeEngine

TALK = [{"role": "user", "content": "There are 5 boxes with 20 apples in each box. How many apples are there?"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


def ids(engine: Engine) -> list[int]:
    assert isinstance(engine, FakeEngine)
    return engine.encode(engine.calls[-1])


def test_ids_of_a_rendered_chat_are_the_chat(reference: Engine) -> None:
    chat = reference.generate(messages=TALK, max_tokens=12)
    rendered = f"<|im_start|>user\n{TALK[0]['content']}<|im_end|>\n<|im_start|>prose\n"
    given = reference.tokenize(rendered, markup=True)
    assert reference.generate(prompt_ids=given, max_tokens=12).token_ids == chat.token_ids
    assert reference.generate(rendered, max_tokens=12).token_ids != chat.token_ids
    assert reference.tokenize("<|im_end|>") != reference.tokenize("<|im_end|>", markup=True)
    scored = reference.choice(["yes", "no"], prompt_ids=given)
    assert scored.logprobs == reference.choice(["yes", "no"], messages=TALK).logprobs


def test_ids_beyond_the_vocabulary_are_named(engine: FakeEngine) -> None:
    with pytest.raises(tm.RequestError, match="prompt_ids holds 4096: expected ids from 0 to 4095"):
        engine.generate(prompt_ids=[5, 4096])


def test_an_answer_that_goes_on_is_the_answer_in_one(reference: Engine) -> None:
    whole = reference.generate(messages=TALK, step="prose", mode="ar", max_tokens=12)
    text = reference.tokenizer.decode(whole.token_ids[:4])
    assert reference.tokenizer.encode(text) == list(whole.token_ids[:4])
    begun = [*TALK, {"role": "assistant", "content": text}]
    rest = reference.generate(messages=begun, step="prose", mode="ar", max_tokens=8, continue_final_message=True)
    assert rest.token_ids == whole.token_ids[4:]
    assert reference.generate(messages=begun, step="prose", mode="ar", max_tokens=8).token_ids != rest.token_ids


def test_what_goes_on_has_the_kind_of_the_call_unless_it_says_another(engine: FakeEngine) -> None:
    begun = [*TALK, {"role": "assistant", "content": "The"}]
    plain = engine.tokenizer.markup.decode
    engine.generate(messages=begun, step="plan", continue_final_message=True)
    assert plain(ids(engine), skip_special_tokens=False).endswith("<|im_start|>plan\nThe")
    begun[-1]["kind"] = "prose"
    engine.generate(messages=begun, step="plan", continue_final_message=True)
    assert plain(ids(engine), skip_special_tokens=False).endswith("<|im_start|>prose\nThe")


@pytest.mark.parametrize("text", ["x" * 10_000_000, "word " * 2_000_000, "\U0001f600" * 2_500_000])
@pytest.mark.parametrize("chat", [True, False])
def test_ten_megabytes_are_refused_at_once(engine: FakeEngine, text: str, chat: bool) -> None:
    words: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    took: list[float] = []
    for _ in range(3):
        begin = time.perf_counter()
        with pytest.raises(tm.PromptTooLong, match="prompt of at least") as caught:
            engine.generate(**words)
        took.append(time.perf_counter() - begin)
        assert caught.value.at_least
    assert min(took) < 0.1


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text(max_size=200))
def test_the_bound_is_never_above_the_count(text: str) -> None:
    tokenizer = _ENGINE.tokenizer
    assert tokenizer.fewest(text) <= len(tokenizer.encode(text))


_ENGINE = FakeEngine()


@pytest.mark.parametrize(("normalizer", "least"), [(None, 3), ("NFC", 1), ("NFKC", 0)])
def test_a_normalizer_that_shortens_texts_lowers_the_bound(engine: FakeEngine, normalizer: Any, least: int) -> None:
    change = {"normalizer": normalizer and {"type": normalizer}}
    tokenizer = Tokenizer(json.dumps({**json.loads(engine.tokenizer.json), **change}), None)
    assert tokenizer.fewest("x" * 50) == least
    assert tokenizer.fewest("\u1100\u1161\u11a8" * 50) <= len(tokenizer.encode("\u1100\u1161\u11a8" * 50))


def test_a_tokenizer_of_words_has_no_bound() -> None:
    raw = RawTokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer = Tokenizer(raw.to_str(), None)
    assert (tokenizer.fewest("x" * 10_000), len(tokenizer.encode("x" * 10_000))) == (0, 1)


def test_long_texts_are_encoded_as_short_ones_are(engine: FakeEngine) -> None:
    text = "Many words, 12 of them. " * 1_000
    assert engine.tokenizer.encode(text) == engine.tokenizer.plain.encode(text, add_special_tokens=False).ids


def test_long_prompts_of_tasks_leave_the_event_loop_alone(engine: FakeEngine) -> None:
    long = "word " * 4_000  # of 1,024 tokens' characters, so that it has to be encoded
    slow = engine.translator.tokenizer

    async def ticks() -> tuple[int, float]:
        task = asyncio.create_task(engine.agenerate(messages=[{"role": "user", "content": long}], max_tokens=4))
        count, longest, last = 0, 0.0, time.perf_counter()
        while not task.done():
            await asyncio.sleep(0)
            now = time.perf_counter()
            count, longest, last = count + 1, max(longest, now - last), now
        await task
        return count, longest

    encode = slow.encode

    def slowly(text: str) -> list[int]:
        time.sleep(0.3 if text == long else 0)
        return encode(text)

    try:
        slow.encode = slowly  # type: ignore[method-assign]
        count, longest = asyncio.run(ticks())
    finally:
        del slow.encode
    assert count > 20
    assert longest < 0.25


def test_the_oldest_turns_go_first_and_a_note_counts_them(engine: FakeEngine) -> None:
    turns = [{"role": role, "content": f"{n} " * 60} for n in range(9) for role in ("user", "assistant")]
    talk = [{"role": "system", "content": "Be brief."}, *turns, {"role": "user", "content": "And now?"}]
    with tm.session(engine, trim="oldest"):
        result = engine.generate(messages=talk, max_tokens=100)
        assert engine.generate(messages=talk[:3]).notes == ()
    assert result.notes == ("the oldest 12 of 20 messages were left out (trim): context of 1024 tokens",)
    assert result.stats.prompt_tokens <= 1024 - 100
    result = engine.generate(messages=talk, max_tokens=100)
    assert result.stats.prompt_tokens > 1024 - 100, "without trim, the engine decides"


def test_trimmed_calls_decode_where_untrimmed_ones_are_refused(reference: Engine) -> None:
    talk = [*({"role": role, "content": "many words " * 40} for _ in range(9) for role in ("user", "assistant")), *TALK]
    with pytest.raises(tm.PromptTooLong):
        reference.generate(messages=talk, max_tokens=8)
    with tm.session(reference, policy=tm.Policy(), trim="oldest"):
        assert reference.generate(messages=talk, max_tokens=8).stats.output_tokens <= 8
        scored = reference.choice(["yes", "no"], messages=talk)
        assert scored.text in ("yes", "no")
        with pytest.raises(tm.PromptTooLong):
            reference.generate(messages=[{"role": "user", "content": "many words " * 900}], max_tokens=8)


def _size(messages: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(message["content"]) for message in messages)


def _talks() -> st.SearchStrategy[list[dict[str, Any]]]:
    texts = st.integers(1, 30).map(lambda size: "x" * size)
    rounds = st.tuples(texts, texts, st.booleans()).map(_round)
    turns = st.tuples(texts, st.lists(rounds, max_size=3)).map(
        lambda turn: [{"role": "user", "content": turn[0]}, *(message for one in turn[1] for message in one)]
    )
    return st.tuples(st.booleans(), st.lists(turns, min_size=1, max_size=4)).map(_numbered)


def _round(parts: tuple[str, str, bool]) -> list[dict[str, Any]]:
    said, found, called = parts
    if not called:
        return [{"role": "assistant", "content": said}, {"role": "tool", "content": found}]
    return [{"role": "assistant", "content": said, "tool_calls": [dict(CALL)]}, {"role": "tool", "content": found}]


def _numbered(given: tuple[bool, list[list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Each call with an id of its own, and its answer with the same."""
    told, turns = given
    talk: list[dict[str, Any]] = [{"role": "system", "content": "s"}] if told else []
    for number, message in enumerate(message for turn in turns for message in turn):
        made = dict(message)
        if "tool_calls" in made:
            made["tool_calls"] = [{**CALL, "id": f"c{number}"}]
        elif made["role"] == "tool" and talk and "tool_calls" in talk[-1]:
            made["tool_call_id"] = f"c{number - 1}"
        talk.append(made)
    return talk


@settings(deadline=None, derandomize=True, max_examples=400)
@given(_talks(), st.integers(1, 300))
def test_no_answer_without_its_call_and_no_more_left_out_than_has_to(talk: list[dict[str, Any]], room: int) -> None:
    kept, left = trimmed(talk, lambda messages: _size(messages) <= room)
    assert len(kept) == len(talk) - left
    assert [message for message in talk if any(message is one for one in kept)] == list(kept), "in order, as they were"
    asked: set[str] = set()
    for at, message in enumerate(kept):
        asked |= {call["id"] for call in message.get("tool_calls", ())}
        assert message.get("tool_call_id") in {None, *asked}
        assert message["role"] != "tool" or kept[at - 1]["role"] in ("assistant", "tool")
    users = [message for message in talk if message["role"] == "user"]
    assert any(users[-1] is one for one in kept)
    assert (talk[0]["role"] == "system") == (kept[0]["role"] == "system")
    assert talk[-1] is kept[-1]
    if _size(talk) <= room:
        assert left == 0
