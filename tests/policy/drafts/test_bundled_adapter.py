"""The draft adapter that comes with the package: its files, and how an engine gets it by the model's name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import gguf_files
import pytest
from peft_adapters import HOW, SEVEN, write_adapter
from safetensors import safe_open

from trimode.engine.errors import CheckpointError
from trimode.engine.models import checkpoint
from trimode.engine.models.published import PUBLISHED, Published
from trimode.engine.result import Mode
from trimode.policy.calls import Engine
from trimode.policy.replay.decode_again import Engines

LARGEST = 24_000_000


@pytest.mark.parametrize("published", [one for one in PUBLISHED.values() if one.adapter], ids=lambda one: one.name)
def test_the_files_in_the_package(published: Published) -> None:
    path = published.shipped_adapter
    assert path is not None
    assert sum(file.stat().st_size for file in path.iterdir()) < LARGEST
    drafting = json.loads((path / "trimode_adapter.json").read_text(encoding="utf-8"))
    assert drafting["base"]["weights_sha256"] == published.sha256
    assert drafting["exact_first"] is True
    with safe_open(path / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
        assert {name.split(".")[-3] for name in names} == set(SEVEN)
        assert all(file.get_slice(name).get_dtype() == "BF16" for name in names)
    card = (path / "README.md").read_text(encoding="utf-8")
    assert published.sha256 in card
    assert "CC-BY-SA-4.0" in card
    assert "Attribution-ShareAlike 4.0" in (path / "LICENSE").read_text(encoding="utf-8")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """A published model in the cache, and a bundled adapter for it."""
    monkeypatch.setenv("TRIMODE_CACHE", str(tmp_path))
    made = gguf_files.oracle()
    raw = gguf_files.written(tmp_path / "small.gguf", made).read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    write_adapter(tmp_path / "bundled", made, HOW | {"base": {"weights_sha256": digest}})
    published = Published(
        name="small", package="llm-small", version="1.0", member="llm_small/small.gguf", size=len(raw), sha256=digest,
        hub="nobody/small", licence="Apache-2.0", adapter=str(tmp_path / "bundled"),
    )  # fmt: skip
    published.path.parent.mkdir(parents=True)
    published.path.write_bytes(raw)
    monkeypatch.setattr(checkpoint, "PUBLISHED", {"small": published})
    return published


@pytest.mark.usefixtures("small")
def test_the_name_brings_the_adapter() -> None:
    ids = set[tuple[int, ...]]()
    with Engine.load("small") as engine, Engine.load("small", adapter=False) as bare:
        assert engine.checkpoint.adapter_name == "bundled"
        assert engine.tokens.model.config.modes == ("ar", "linear_spec", "quadratic_spec", "lookup_spec")
        assert engine.weights.unasked == ("linear_spec", "quadratic_spec")
        assert bare.checkpoint.adapter_name == ""
        assert bare.tokens.model.config.modes == ("ar", "lookup_spec")
        ids.add(tuple(bare.generate("ab c", mode="ar", max_tokens=24).token_ids))
        modes: tuple[Mode, ...] = ("ar", "linear_spec", "quadratic_spec")
        for mode in modes:
            ids.add(tuple(engine.generate("ab c", mode=mode, max_tokens=24).token_ids))
    assert len(ids) == 1


@pytest.mark.usefixtures("small")
def test_a_replay_loads_it_where_the_record_has_it() -> None:
    engines = Engines()
    with Engine.load("small") as engine, Engine.load("small", adapter=False) as bare:
        for one in (engine, bare):
            again = engines.of(one.runtime)
            assert again.runtime == one.runtime
            assert again.tokens.model.config.modes == one.tokens.model.config.modes
            again.close()


def test_a_path_does_not(small: Published) -> None:
    with Engine.load(small.path) as engine:
        assert engine.checkpoint.adapter_name == ""


def test_other_weights_under_the_name_are_refused(small: Published) -> None:
    raw = bytearray(small.path.read_bytes())
    raw[-1] ^= 1
    small.path.write_bytes(bytes(raw))
    with pytest.raises(CheckpointError, match="the adapter was made for another model, whose weights have the digest"):
        Engine.load("small")
