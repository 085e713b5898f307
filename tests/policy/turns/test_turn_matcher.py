"""The matcher of a turn on random walks: its cheap answers agree with its mask, and it can always be completed."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trimode as tm
from trimode.engine.models.tokenizer import Tokenizer
from trimode.engine.result import Section
from trimode.engine.token_mask import allows
from trimode.policy.grammar import Marker, TurnGrammar, TurnMatcher
from trimode.policy.grammar.trigger import Opened, Trigger
from trimode.policy.schema import CallFormat, schema_of, shapes_of
from trimode.policy.schema.turns import turn_target
from trimode.policy.turns.segments import Markers
from trimode.policy.turns.writing import call_format, marker_of, turn_matcher, writing_notes

FORMATS = (
    CallFormat("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
    CallFormat("[CALLS][", ", ", "]"),
    CallFormat("aab", "aabaab", "b"),
    CallFormat("<SPECIAL_100>[", ", ", "]"),
    CallFormat("é:", None, ""),
    CallFormat("<call>", "\n", "\n"),
    CallFormat("<call>", "", ""),
    CallFormat("<call>", "\n,\n", "\n]"),
    CallFormat("<call>", "!", "!?"),
)
ANSWERS = (None, {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}, {"type": "integer"})
LONG = 2_000


def weather(city: str, days: int = 1) -> str:
    """Tell the weather."""
    return city * days


def start(engine: tm.Engine, form: CallFormat, choice: str, parallel: bool, answer: Any) -> TurnMatcher:
    target = turn_target(shapes_of([weather]), None if answer is None else schema_of(answer), choice, parallel, "test")
    return turn_matcher(engine.tokenizer, engine.grammars, target.written(form))


def allowed(mask: Any) -> list[int]:
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return [int(token) for token in np.flatnonzero(bits)]


@given(
    form=st.sampled_from(FORMATS),
    choice=st.sampled_from(["auto", "none", "required", "weather"]),
    parallel=st.booleans(),
    answer=st.sampled_from(ANSWERS),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, derandomize=True, max_examples=90)
def test_answers_agree_with_the_mask(
    form: CallFormat, choice: str, parallel: bool, answer: Any, seed: int, reference: tm.Engine
) -> None:
    if form.head[0] in "[{" and answer is not None and choice == "auto":
        return  # test_an_answer_that_begins_like_a_call_is_refused
    chance, ends = random.Random(seed), set(reference.tokens.model.config.eos_token_ids)
    vocabulary = reference.grammars.vocabulary
    size = len(vocabulary.token_bytes)
    at, numbers = start(reference, form, choice, parallel, answer), [0]
    opening = reference.tokenizer.encode_markup(form.head)
    for step in range(60):
        mask, forced = at.words(), at.forced()
        fits = [token for token in allowed(mask) if token < size]
        assert fits
        if forced:
            assert fits == [forced[0]]
        for token in chance.sample(range(size), 8) + chance.sample(fits, min(8, len(fits))):
            assert at.allows(token) == allows(mask, token), vocabulary.token_bytes[token]
        whole = at.completion(LONG)
        assert whole
        assert whole[: len(forced)] == list(forced)[: len(whole)]
        completed(at, whole, ends)
        going_on = [token for token in fits if token not in ends]
        if not going_on:
            break
        wanted = opening[step] if step < len(opening) and chance.random() < 0.7 else None
        token = wanted if wanted in going_on else chance.choice(going_on)
        if at.leads(token, 500):
            ahead = at.fork()
            ahead.advance([token])
            assert ahead.completion(500) is not None
        at.advance([token])
        numbers.append(at.section.number)
    assert all(after - before in (0, 1) for before, after in pairwise(numbers))


def completed(at: TurnMatcher, whole: list[int], ends: set[int]) -> None:
    """Asserts that each token of a completion is allowed where it stands, and that the text may be cut after it."""
    ahead = at.fork()
    for token in whole:
        assert ahead.allows(token)
        if token not in ends:
            ahead.advance([token])
    assert whole[-1] in ends or ahead.completion(0) == []


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_several_calls_in_every_format(form: CallFormat, reference: tm.Engine) -> None:
    """Calls are read back from what the matcher lets pass, also where a format has nothing, or the same, between them
    and after them."""
    if form.between is None:
        return
    encode, call = reference.tokenizer.encode_markup, '{"name":"weather","arguments":{"city":"a"}}'
    for answer in (None, ANSWERS[1]):
        at = start(reference, form, "required", True, answer)
        for token in encode(form.head) + encode(call) + encode(form.between) + encode(call) + encode(form.tail):
            assert at.allows(token)
            at.advance([token])
        assert all(at.allows(token) for token in reference.tokens.model.config.eos_token_ids)


@pytest.mark.parametrize("answer", ANSWERS, ids=str)
def test_no_token_leads_on_that_the_mask_refuses(answer: Any, reference: tm.Engine) -> None:
    """Where a call or an answer may begin, the answer alone would be forced to begin as it does."""
    at = start(reference, FORMATS[0], "auto", True, answer)
    mask = at.words()
    assert not at.forced()
    for token in range(len(reference.grammars.vocabulary.token_bytes)):
        assert allows(mask, token) or not at.leads(token, 500), token


def test_an_answer_that_begins_like_a_call_is_refused(reference: tm.Engine) -> None:
    with pytest.raises(tm.SchemaError, match="could not be told apart"):
        start(reference, FORMATS[1], "auto", True, {"type": "array", "items": {"type": "integer"}})


def test_a_control_marker_is_one_token_and_its_spelling_is_text(reference: tm.Engine) -> None:
    spelled, token = reference.tokenizer.encode("<SPECIAL_100>"), reference.tokenizer.marker("<SPECIAL_100>")
    assert token is not None
    at = start(reference, FORMATS[3], "auto", True, None)
    at.advance(spelled)
    assert at.section == Section(0, "prose")
    at.advance([token])
    assert at.section == Section(1, "tool_call")
    banned = start(reference, FORMATS[3], "none", True, None)
    assert not banned.allows(token)
    banned.advance(spelled)


def test_spans_leave_out_the_marker_that_opened_the_call_and_no_other_text(reference: tm.Engine) -> None:
    form = CallFormat("<tool_call>\n", None, "\n</tool_call>")
    markers = Markers(marker_of(reference.tokenizer, form), "</think>", reference.tokenizer.decode)
    said, call = reference.tokenizer.encode("<tool_call> is a marker.\n<tool_call>\n"), reference.tokenizer.encode("{}")
    starts = [(Section(0, "prose"), 0), (Section(1, "tool_call"), len(said))]
    text = reference.tokenizer.decode([*said, *call])
    spans = [(span.section, text[span.begin : span.end]) for span in markers.spans([*said, *call], starts, len(text))]
    assert spans == [
        (Section(0, "prose"), "<tool_call> is a marker.\n"),
        (None, "<tool_call>\n"),
        (Section(1, "tool_call"), "{}"),
    ]


@given(
    marker=st.text("ab<", min_size=1, max_size=6),
    rest=st.text("ab<", max_size=3),
    text=st.lists(st.integers(0, 2047), max_size=40),
    short=st.booleans(),
)
@settings(deadline=None, derandomize=True, max_examples=80)
def test_a_trigger_is_found_wherever_tokens_cut_it(
    marker: str, rest: str, text: list[int], short: bool, reference: tm.Engine
) -> None:
    vocabulary = reference.grammars.vocabulary
    letters = [vocabulary.characters[one] for one in "ab<"]
    tokens = [letters[token % 3] if short else token for token in text]
    trigger, matched, written = Trigger(vocabulary, marker, rest), 0, b""
    for token in tokens:
        written += vocabulary.token_bytes[token]
        after = trigger.after(matched, token)
        if isinstance(after, Opened):
            assert written.removesuffix(after.beyond).endswith(marker.encode())
            assert (token in trigger.refused(matched)) == (not rest.encode().startswith(after.beyond))
            return
        assert token not in trigger.refused(matched)
        assert marker.encode() not in written
        matched = after


def test_the_mask_of_prose_refuses_what_would_go_on_wrongly(reference: tm.Engine) -> None:
    vocabulary = reference.grammars.vocabulary
    marker = Marker("tool", "x")
    grammar = start(reference, FORMATS[0], "auto", True, None).grammar
    at = TurnMatcher(replace(grammar, marker=marker))
    assert isinstance(grammar, TurnGrammar)
    wrong = [
        t for t, text in enumerate(vocabulary.token_bytes) if b"tool" in text and not text.endswith((b"tool", b"toolx"))
    ]
    right = [token for token, text in enumerate(vocabulary.token_bytes) if text.endswith(b"tool")]
    assert right
    assert not any(at.allows(token) for token in wrong)
    assert all(at.allows(token) for token in right)


LLAMA = (
    "{% for m in messages %}{% if m.tool_calls %}{% for t in m.tool_calls %}"
    '{"name": "{{ t.function.name }}", "parameters": {{ t.function.arguments | tojson }}}'
    "{% endfor %}{% else %}{{ m.content }}{% endif %};{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)
HERMES = (
    "{% for m in messages %}>{% if m.tool_calls %}{% for t in m.tool_calls %}"
    '{{ \'\\n<tool_call>\\n{"name": "\' + t.function.name + \'", "arguments": \' }}'
    "{{ t.function.arguments | tojson }}{{ '}\\n</tool_call>' }}"
    "{% endfor %}{% else %}{{ m.content }}{% endif %};{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)


def test_a_template_s_own_form_is_taken_and_one_that_is_not_read_is_noted(reference: tm.Engine) -> None:
    target = turn_target(shapes_of([weather]), None, "auto", True, "test")
    hermes, llama = (Tokenizer(reference.tokenizer.json, template) for template in (HERMES, LLAMA))
    assert call_format(hermes, target) == FORMATS[0]
    assert writing_notes(hermes, target) == ()
    assert call_format(llama, target) == FORMATS[0]
    assert "in a form that is not read here" in writing_notes(llama, target)[0]
    assert writing_notes(reference.tokenizer, target) == ()
