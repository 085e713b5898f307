"""Text to ids with the reference template: control ids come from the template alone, and ordinary text gets the ids
that `transformers` gives it.

The tokenizer is built here by the recipe of the reference one: byte-level BPE over a few sentences.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as RawTokenizer
from transformers import PreTrainedTokenizerFast

from trimode.engine.errors import CheckpointError, RequestError
from trimode.engine.models.tokenizer import Tokenizer

ROOT = Path(__file__).parents[3]
TEMPLATE = (ROOT / "scripts" / "training" / "chat_template.jinja").read_text(encoding="utf-8")
SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<SPECIAL_100>")
THINKING = ("<think>", "</think>")
MARKERS = (*SPECIAL, *THINKING)
START, END = 3, 4
CORPUS = [
    "<|im_start|>system You are helpful. user assistant prose json tool_call <|im_end|>",
    "The weather in Paris is sunny today, about 21 degrees; the train leaves at 10:45.",
    '{"name": "find_train", "arguments": {"from": "Paris", "to": "Lyon", "seats": 2}}',
    "One paragraph.\n\nAnother one.\n\n\nAnd a third.\n\n",
    "<think> I should call the tool </think> and im_end im_start <s> <unk> think",
] * 5
EXAMPLES = settings(deadline=None, derandomize=True, max_examples=100)


def byte_level_words() -> Any:
    """Line breaks are words of their own, as in every tokenizer of the families we load."""
    pattern = Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+")
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def tokenizer_json() -> str:
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = byte_level_words()
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(MARKERS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(CORPUS, trainer)
    raw.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    raw.add_tokens([AddedToken(text, special=False, normalized=False) for text in THINKING])
    return raw.to_str()


JSON = tokenizer_json()
TOKENIZER = Tokenizer(JSON, TEMPLATE)
FAST: Any = PreTrainedTokenizerFast
HUGGING_FACE = FAST(tokenizer_object=RawTokenizer.from_str(JSON), chat_template=TEMPLATE)

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60)
with_markers = st.lists(st.one_of(texts, st.sampled_from(MARKERS)), max_size=6).map("".join)


def user(content: str, **more: str) -> dict[str, str]:
    return {"role": "user", "content": content, **more}


@given(text=with_markers)
@EXAMPLES
def test_any_text_round_trips_without_control_ids(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert not any(token < len(MARKERS) for token in ids)
    assert TOKENIZER.decode(ids) == text


BARE = RawTokenizer.from_str(json.dumps({**json.loads(JSON), "added_tokens": []}))


@given(text=with_markers)
@EXAMPLES
def test_caller_text_has_the_ids_of_a_file_without_added_tokens(text: str) -> None:
    assert TOKENIZER.encode(text) == BARE.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.encode_prompt(text) == BARE.encode(text).ids


def test_lengths_in_the_file_neither_cut_nor_pad() -> None:
    limits = {
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "<unk>"},
    }  # fmt: skip
    limited = Tokenizer(json.dumps({**json.loads(JSON), **limits}), TEMPLATE)
    for text in CORPUS[:5]:
        assert limited.encode(text) == TOKENIZER.encode(text)
        assert limited.encode_markup(text) == TOKENIZER.encode_markup(text)


@pytest.mark.parametrize("marker", MARKERS)
def test_a_typed_marker_stays_text_and_a_template_marker_becomes_control(marker: str) -> None:
    ids = TOKENIZER.encode_chat([user(f"say {marker} twice {marker}")], add_generation_prompt=True)
    assert [token for token in ids if token < len(MARKERS)] == [START, END, START]
    assert "".join(TOKENIZER.token(token) for token in ids) == (
        f"<|im_start|>user\nsay {marker} twice {marker}<|im_end|>\n<|im_start|>prose\n"
    )
    assert TOKENIZER.decode(ids) == f"user\nsay {marker} twice {marker}\nprose\n"


def test_the_thinking_pair_is_control_but_shown() -> None:
    template = "<think></think>{{ messages[0]['content'] }}"
    ids = Tokenizer(JSON, template).encode_chat([user("a")])
    assert ids[:2] == [6, 7]
    assert TOKENIZER.decode(ids) == "<think></think>a"


@given(contents=st.lists(with_markers, min_size=1, max_size=4))
@EXAMPLES
def test_pieces_say_which_ids_are_whose_content(contents: list[str]) -> None:
    roles = ["user", "assistant", "tool", "user"]
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    pieces = TOKENIZER.pieces(messages)
    for index, content in enumerate(contents):
        assert [TOKENIZER.decode(piece.ids) for piece in pieces if piece.message == index] == [content] * bool(content)
    assert [token for piece in pieces for token in piece.ids] == TOKENIZER.encode_chat(messages)
    control = [token for piece in pieces for token in piece.ids if token < len(MARKERS)]
    assert control == [START, END] * len(contents)


def hugging_face(messages: list[dict[str, str]], **variables: Any) -> list[int]:
    text = HUGGING_FACE.apply_chat_template(messages, tokenize=False, **variables)
    found: list[int] = HUGGING_FACE(text, add_special_tokens=False)["input_ids"]
    return found


@given(contents=st.lists(texts.map(str.strip), min_size=1, max_size=4))
@EXAMPLES
def test_stripped_text_gets_the_ids_of_transformers(contents: list[str]) -> None:
    roles = ["system", "user", "assistant", "user"]
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    ids = TOKENIZER.encode_chat(messages, add_generation_prompt=True)
    assert ids == hugging_face(messages, add_generation_prompt=True)


def test_tools_get_the_ids_of_transformers() -> None:
    train = {"type": "object", "properties": {"to": {"type": "string"}, "seats": {"enum": [1, 2]}}, "required": ["to"]}
    tools = [{"name": "find_train", "parameters": train}, {"name": "now", "parameters": {"type": "object"}}]
    messages = [{"role": "system", "content": "Be brief."}, user("To Lyon, please.")]
    variables: dict[str, Any] = {"tools": tools, "kind": "tool_call", "add_generation_prompt": True}
    ids = TOKENIZER.encode_chat(messages, **variables)
    assert ids == hugging_face(messages, **variables)
    assert "find_train{to:string,seats?:1|2}" in TOKENIZER.decode(ids)


def test_a_leading_line_break_is_not_merged_with_the_templates() -> None:
    """Where the two differ: contents are encoded on their own, so a border never depends on what the caller typed."""
    messages = [user("\n\nhello")]
    ids = TOKENIZER.encode_chat(messages)
    assert ids != hugging_face(messages)
    assert TOKENIZER.decode(ids) == "user\n\n\nhello\n"


@pytest.mark.parametrize("marker", [*MARKERS, "\ue0000\ue001"])
def test_a_marker_outside_the_contents_is_refused(marker: str) -> None:
    schema = {"type": "object", "properties": {f"a{marker}": {"type": "string"}}}
    tools = [{"name": f"x{marker}", "parameters": {}}]
    for messages, variables in (
        ([user("a")], {"tools": tools}),
        ([user("a")], {"schema": schema}),
        ([user("a")], {"kind": marker}),
        ([user("a", kind=f"prose{marker}")], {}),
        ([{"role": f"user{marker}", "content": "a"}], {}),
    ):
        with pytest.raises(RequestError, match="control marker"):
            TOKENIZER.encode_chat(messages, **variables)


@given(content=st.sampled_from(["\ue0000\ue001", "\ue0001\ue001", "\ue000", "\ue0007\ue001x"]))
@EXAMPLES
def test_contents_that_look_like_places_stay_text(content: str) -> None:
    ids = TOKENIZER.encode_chat([user(content), user("other")])
    assert TOKENIZER.decode(ids) == f"user\n{content}\nuser\nother\n"


@pytest.mark.parametrize(
    "message", [{"role": "user"}, {"role": "user", "content": None}, {"role": "user", "content": [1]}]
)
def test_a_message_without_text_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="content as a string"):
        TOKENIZER.encode_chat([message])


def test_what_the_template_refuses_is_refused_with_its_words() -> None:
    with pytest.raises(RequestError, match="a system message must come first"):
        TOKENIZER.encode_chat([user("a"), {"role": "system", "content": "late"}])


def test_without_a_template_messages_are_refused() -> None:
    with pytest.raises(RequestError, match="no chat template; pass prompt="):
        Tokenizer(JSON, None).encode_chat([user("a")])


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    ids = TOKENIZER.encode("é")
    assert len(ids) == 2
    assert TOKENIZER.decode(ids[:1]) == "\ufffd"


def test_loading_reads_the_template_from_either_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(JSON, encoding="utf-8")
    assert not Tokenizer.load(tmp_path).has_template
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "config"}), encoding="utf-8")
    assert Tokenizer.load(tmp_path).encode_chat([user("a")]) == TOKENIZER.encode("config")
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode_chat([user("a")]) == TOKENIZER.encode_chat([user("a")])
    assert loaded.vocab_size == TOKENIZER.vocab_size == len(HUGGING_FACE)


def test_a_missing_or_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json in"):
        Tokenizer.load(tmp_path)
    for broken in ("{", "{}", "[]", '{"model": 3}'):
        (tmp_path / "tokenizer.json").write_text(broken, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a tokenizer"):
            Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(JSON, encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json is not JSON"):
        Tokenizer.load(tmp_path)


LLAMA, QWEN, MISTRAL = "llama", "qwen", "mistral"
MARKUP: dict[str, tuple[str, ...]] = {
    LLAMA: ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    QWEN: ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    MISTRAL: ("<s>", "</s>", "[INST]", "[/INST]"),
}
TEMPLATES = {
    LLAMA: (
        "{{- bos_token }}{%- for m in messages %}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' }}"
        "{{- m['content'] + '<|eot_id|>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
    ),
    QWEN: (
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    ),
    MISTRAL: (
        "{{- bos_token }}{%- for m in messages %}"
        "{%- if m['role'] == 'user' %}{{- '[INST]' + m['content'] + '[/INST]' }}"
        "{%- elif m['role'] == 'assistant' %}{{- m['content'] + eos_token }}"
        "{%- else %}{{- raise_exception('only user and assistant') }}{%- endif %}{%- endfor %}"
    ),
}
TALK = [user("What is 6 x 7?"), {"role": "assistant", "content": "It is 42."}, user("And 6 x 8, in two lines?\n")]


def foreign(style: str, directory: Path, **config: Any) -> Any:
    """Tokenizer files of another family as they lie on the hub; returns what `transformers` makes of them."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = byte_level_words()
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    raw.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in MARKUP[style]])
    if style == QWEN:
        raw.normalizer = normalizers.NFC()
    first = MARKUP[style][0]
    leading = processors.TemplateProcessing(f"{first} $A", None, [(first, raw.token_to_id(first))])
    suffix = [] if style == QWEN else [leading]
    raw.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), *suffix])
    raw.enable_truncation(4)
    raw.enable_padding(length=40)
    raw.save(str(directory / "tokenizer.json"))
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": MARKUP[style][1], **config}
    if style != QWEN:
        # Older files spell a marker out as an object.
        fields["bos_token"] = {"content": first, "lstrip": False} if style == MISTRAL else first
    (directory / "tokenizer_config.json").write_text(json.dumps(fields), encoding="utf-8")
    made = FAST(tokenizer_file=str(directory / "tokenizer.json"), bos_token=first, eos_token=MARKUP[style][1])
    made.chat_template = TEMPLATES[style]
    return made


@pytest.mark.parametrize("style", list(MARKUP))
@pytest.mark.parametrize("listed", [False, True])
def test_other_families_templates_get_the_ids_of_transformers(tmp_path: Path, style: str, listed: bool) -> None:
    template: Any = TEMPLATES[style]
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": template}]
    theirs = foreign(style, tmp_path, chat_template=named if listed else template)
    ids = Tokenizer.load(tmp_path).encode_chat(TALK, add_generation_prompt=True)
    assert ids == theirs.apply_chat_template(TALK, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert (ids[0] == theirs.bos_token_id) == (style != QWEN)


@pytest.mark.parametrize("style", list(MARKUP))
def test_a_raw_prompt_begins_as_the_tokenizer_says(tmp_path: Path, style: str) -> None:
    theirs = foreign(style, tmp_path)
    ours = Tokenizer.load(tmp_path)
    for text in ("The weather in Paris is sunny today, about 21 degrees", "né 東京\n\n", ""):
        assert ours.encode_prompt(text) == theirs(text, truncation=False, padding=False)["input_ids"]
        assert ours.encode_prompt(text)[style != QWEN :] == ours.encode(text)
    assert ours.decode(ours.encode_prompt("Paris ok")) == "Paris ok"


@pytest.mark.parametrize("style", list(MARKUP))
def test_a_marker_typed_into_another_familys_prompt_stays_text(tmp_path: Path, style: str) -> None:
    foreign(style, tmp_path, chat_template=TEMPLATES[style])
    ours = Tokenizer.load(tmp_path)
    markers = {ours.markup.token_to_id(marker) for marker in MARKUP[style]}
    for marker in MARKUP[style]:
        assert not markers & set(ours.encode(f"say {marker}"))
        assert not markers & set(ours.encode_prompt(f"say {marker}")[1:])
        control = [token for token in ours.encode_chat([user(f"say {marker}")]) if token in markers]
        assert control == [token for token in ours.encode_chat([user("say")]) if token in markers]


def test_a_foreign_checkpoint_without_a_template_takes_raw_prompts_only(tmp_path: Path) -> None:
    for absent in (None, 3, [], [{"name": "tool_use", "template": "no"}], ["default"]):
        foreign(LLAMA, tmp_path, chat_template=absent)
        ours = Tokenizer.load(tmp_path)
        assert len(ours.encode_prompt("Paris")) > 1
        with pytest.raises(RequestError, match="no chat template; pass prompt= instead of messages="):
            ours.encode_chat(TALK)


def test_names_of_markers_may_stand_in_their_own_file(tmp_path: Path) -> None:
    foreign(LLAMA, tmp_path, chat_template="{{ bos_token }}{{ eos_token }}{{ unk_token }}")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    del config["bos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<|begin_of_text|>"}), encoding="utf-8")
    ours = Tokenizer.load(tmp_path)
    assert ours.special == {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    assert [ours.token(token) for token in ours.encode_chat(TALK)] == ["<|begin_of_text|>", "<|end_of_text|>"]


def test_conversations_of_one_shape_share_a_rendering() -> None:
    mine = Tokenizer(tokenizer_json(), TEMPLATE)
    first, second = ([{"role": "user", "content": text}] for text in ("find a train", "<|im_end|> or \ue0001\ue001"))
    assert mine.encode_chat(first) != mine.encode_chat(second)
    assert mine.rendered.cache_info().misses == 1
    assert mine.encode_chat(second) == Tokenizer(tokenizer_json(), TEMPLATE).encode_chat(second)
    mine.encode_chat([{"role": "user", "content": ""}])
    mine.encode_chat(first, kind="json")
    assert mine.rendered.cache_info().misses == 3


def test_a_template_that_asks_for_the_time_is_rendered_each_time() -> None:
    mine = Tokenizer(tokenizer_json(), "{{ strftime_now('%Y') }}{{ messages[0]['content'] }}")
    for _ in range(2):
        mine.encode_chat([{"role": "user", "content": "now"}])
    assert mine.rendered.cache_info().currsize == 0
    assert mine.rendered.cache_info().misses == 2
