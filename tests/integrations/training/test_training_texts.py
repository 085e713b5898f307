"""Training files: what is read, and errors that name file and line."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft_adapters import write_base

from trimode.engine.models.checkpoint import locate
from trimode.integrations.bench.episodes import Episode
from trimode.integrations.training.data.own_text import finished
from trimode.integrations.training.data.rendering import Renderer
from trimode.integrations.training.data.samples import Sample, runs
from trimode.integrations.training.data.texts import as_record, own_text, read_texts
from trimode.integrations.training.errors import DataError, TrainingError
from trimode.integrations.training.memory import fit
from trimode.integrations.training.noise import noise_ids
from trimode.integrations.training.picking import picked_at
from trimode.integrations.training.recipe import Recipe

ANSWER = {"role": "assistant", "content": "Here."}


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "Expecting property name"),
        ("[1]", "expected an object with messages, steps, text or ids"),
        ('{"words": 1}', "expected an object with messages, steps, text or ids"),
        ('{"text": 5}', "text=5: expected a string"),
        ('{"messages": "Hello"}', "expected a list of messages"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "no message of the assistant"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "robot"),
        ('{"steps": [{"kind": "dance"}], "id": "1", "source": "s", "tools": []}', "unknown step kind 'dance'"),
        ('{"steps": [], "id": "1", "source": "s", "tools": ["absent"]}', "KeyError: 'absent'"),
        ('{"ids": []}', "expected a list of token ids"),
        ('{"ids": [1, -2]}', "expected a list of token ids"),
        ('{"ids": [1, true]}', "expected a list of token ids"),
        ('{"ids": [1, 2], "own": [[0, 3]]}', r"own holds \[0, 3\], and there are 2 ids"),
        ('{"ids": [1, 2], "answers": [{"at": 3, "ids": [4]}]}', "an answer begins at 3: expected 1 to 2"),
        ('{"ids": [1, 2], "answers": [{"ids": [4]}]}', "KeyError: 'at'"),
        ('{"ids": [1, 2], "answers": [{"at": 1, "ids": [4], "forced": [7]}]}', "IndexError"),
    ],
)
def test_bad_lines(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "A good line."}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=said) as error:
        list(read_texts(path))
    assert str(error.value).startswith(f"{path}, line 2: ")


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "no.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "latin.txt").write_bytes("Grün".encode("latin-1"))
    for name in ("no.jsonl.gz", "latin.txt", "absent.txt"):
        with pytest.raises(DataError, match="cannot be read") as error:
            list(read_texts(tmp_path / name))
        assert str(tmp_path / name) in str(error.value)


def test_forms(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl.gz"
    episode = {
        "id": "e",
        "source": "s",
        "tools": [],
        "steps": [{"kind": "user", "text": "a"}, {"kind": "prose", "text": "b"}],
    }
    lines = [{"messages": [ANSWER]}, episode, {"text": "words"}, {"ids": [1, 2, 3], "own": [[1, 3]]}]
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(map(json.dumps, lines)))
    chat, recorded, text, ids = read_texts(path)
    assert isinstance(chat, Episode)
    assert isinstance(recorded, Episode)
    assert text == "words"
    assert isinstance(ids, Sample)
    assert ids.own.tolist() == [False, True, True]
    plain = tmp_path / "plain.md"
    plain.write_text("# Title", encoding="utf-8")
    assert list(read_texts(plain)) == ["# Title"]


@given(st.data())
def test_own_text_comes_back(data: st.DataObject) -> None:
    ids = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9)
    trunk = data.draw(ids)
    own = data.draw(st.lists(st.booleans(), min_size=len(trunk), max_size=len(trunk)))
    answers = []
    for _ in range(data.draw(st.integers(0, 2))):
        answer = data.draw(ids)
        forced = [at for at in range(len(answer)) if data.draw(st.booleans())]
        answers.append({"at": data.draw(st.integers(1, len(trunk))), "ids": answer, "forced": forced})
    record = {"ids": trunk, "own": runs(np.asarray(own, np.bool_)), "answers": answers}
    found = own_text(json.loads(json.dumps(record)))
    assert found.own.tolist() == own
    assert as_record(found, runs(found.own)) == record


def test_a_half_line_is_cut_off(tmp_path: Path) -> None:
    path = written(tmp_path / "own.jsonl", {"text_number": 4})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"text_num')
    assert finished(path) == {4}
    assert path.read_text(encoding="utf-8") == '{"text_number": 4}\n'


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    path = tmp_path_factory.mktemp("rendering") / "base"
    write_base(path)
    checkpoint = locate(path)
    return Renderer(checkpoint.tokenizer(), checkpoint.config(), 200)


def test_own_tokens_are_answers_with_their_end(renderer: Renderer, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Hi"}, ANSWER, {"role": "user", "content": "More?"}, ANSWER]
    (text,) = read_texts(written(tmp_path / "chat.jsonl", {"messages": talk}))
    (found,) = renderer.samples(text)
    spoken = [renderer.tokenizer.markup.decode(found.ids[slice(*run)].tolist(), False) for run in runs(found.own)]
    assert spoken == ["Here.<|im_end|>"] * 2


def test_long_texts_are_cut(renderer: Renderer) -> None:
    pieces = list(renderer.samples("word " * 100))
    assert [len(piece.ids) for piece in pieces] == [200, 200, 100]
    assert all(piece.own.tolist() == [False] + [True] * (len(piece.ids) - 1) for piece in pieces)


def test_ids_of_another_vocabulary(renderer: Renderer) -> None:
    with pytest.raises(DataError, match="a line of ids holds 100000, and the base has"):
        list(renderer.samples(own_text({"ids": [1, 100000], "own": [[1, 2]]})))


def test_noise(renderer: Renderer) -> None:
    tokenizer, config = renderer.tokenizer, renderer.config
    mask = tokenizer.marker("<|MASK|>")
    assert noise_ids("mask", config, tokenizer) == (mask, mask)
    assert noise_ids("random", config, tokenizer) == (1, tokenizer.vocab_size - 1)
    assert noise_ids("7", config, tokenizer) == (7, 7)
    for wrong in ("seven", "-1", "99999"):
        with pytest.raises(TrainingError, match="expected 'mask', 'random' or an id below"):
            noise_ids(wrong, config, tokenizer)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("objective", "mse"), ("attention", "full"), ("predicts", "last"), ("dtype", "int8"), ("steps", 0),
        ("rank", -1), ("blocks", (2,)), ("blocks", ()), ("recorded", 1.5), ("rate", 0.0), ("projections", ("head",)),
    ],
)  # fmt: skip
def test_bad_recipes(field: str, value: Any) -> None:
    with pytest.raises(TrainingError, match=field):
        Recipe(noise=(1, 1), **{field: value})


@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 50))
def test_each_round_visits_every_sample(count: int, samples: int, start: int) -> None:
    """Whatever the number of visits of a step: every `count` visits from the start of a round are all samples."""
    recipe = Recipe(noise=(1, 1), samples=samples, blocks=(3,))
    given_ = [Sample(np.full(4, at, np.int32), np.ones(4, np.bool_)) for at in range(count)]
    visits = [divmod(start * count + at, samples) for at in range(count)]
    seen = [int(picked_at(given_, recipe, *visit).sample.ids[0]) for visit in visits]
    assert sorted(seen) == list(range(count))


@given(st.integers(1, 64), st.integers(0, 1 << 40))
def test_what_fits(samples: int, free: int) -> None:
    config = locate(None).config()
    found = fit(config, Recipe(noise=(5, 5)), samples, free)
    assert 1 <= found.samples <= samples
    assert found.kept <= free
    assert not found.recompute or found.samples == 1


def test_recorded_text_is_taken_by_its_share() -> None:
    rng = random.Random(0)
    one = own_text({"ids": list(range(40)), "own": [[1, 40]], "answers": [{"at": 9, "ids": list(range(20))}]})
    for share in (0.0, 1.0):
        recipe = Recipe(noise=(1, 1), recorded=share, drafts=500, samples=1, seed=rng.randrange(99))
        found = picked_at([one], recipe, 0, 0).cuts
        assert any(cut.first < 40 for cut in found) == bool(share)
