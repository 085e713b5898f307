"""What `trimode export --format gguf` writes, in llama.cpp itself: the same ids of texts, and the same greedy ids.

Run by `make test-peers`, in an environment with the extra `bench`.
"""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import gguf_files
import pytest
import torch

from trimode.engine.models.checkpoint import Checkpoint, locate
from trimode.engine.models.export import export
from trimode.engine.request import DecodeRequest
from trimode.engine.token_engine import TokenEngine
from trimode.integrations.bench.peer_process import PeerProcess
from trimode.integrations.bench.peer_protocol import Asked, CannotRun, Setup
from trimode.integrations.bench.with_llamacpp_native import VARIABLE
from trimode.policy.calls.engine import Engine

pytestmark = pytest.mark.peers
TEXTS = ("I want to book a table for two at seven.", "How many loaves does a baker sell in 3 days?", '{"name":')
SCHEMA = '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}'


COMPILED = shutil.which(os.environ.get(VARIABLE) or "llama-server")
SERVERS = ["llamacpp", *(["llamacpp-native"] if COMPILED else [])]
"""The wheel's, and one that was compiled for this machine, if there is one (`make llama-server`)."""


def setup(path: Path, peer: str = "llamacpp", drafts: bool = False, ends: tuple[int, ...] = (4,), **more: Any) -> Setup:
    fields: dict[str, Any] = {
        "directory": "",
        "dtype": "float32",
        "threads": 1,
        "context": 512,
        "probe": (5, 6, 7),
        "folder": "",
    }
    return Setup(peer=peer, gguf=str(path), drafts=drafts, ends=ends, max_tokens=24, **{**fields, **more})


@pytest.fixture(scope="module")
def bundled(reference: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "bundled.gguf"
    export(reference.checkpoint.directory, path, "gguf", "f32")
    return path


@pytest.fixture(scope="module")
def server(bundled: Path) -> Any:
    """llama.cpp's server in this process."""
    xllamacpp: Any = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.verbosity = str(bundled), 512, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def test_texts_have_our_ids(reference: Engine, server: Any) -> None:
    import httpx

    for text in (*TEXTS, *gguf_files.TEXTS[:20]):
        if "'s" in text.lower() or not text:  # what the sentence about its nearest pre-tokenizer says; nothing
            continue
        asked = {"content": text, "add_special": False, "parse_special": False}
        found = httpx.post(f"{server.listening_address}/tokenize", json=asked).json()["tokens"]
        assert found == reference.tokenizer.encode(text), text


@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize("peer", SERVERS)
def test_greedy_ids_are_ours(reference: Engine, bundled: Path, peer: str, drafts: bool) -> None:
    process = PeerProcess(setup(bundled, peer, drafts))
    for text in TEXTS:
        ours = reference.generate(messages=[{"role": "user", "content": text}], max_tokens=24, mode="ar")
        found = process.run(Asked(prompt=tuple(ours.prompt_ids), max_tokens=24))
        assert found.ids == tuple(ours.token_ids)
        assert found.decode_tokens == len(found.ids) - 1
    held = process.run(Asked(prompt=tuple(reference.tokenizer.encode(TEXTS[0])), max_tokens=24, schema=SCHEMA))
    assert reference.tokenizer.decode(held.ids).lstrip().startswith("{")
    assert process.close()


TOKENS = len(gguf_files.CONTROL) + 256 + len(gguf_files.PAIRS) + 1
"""Rows without padding, which llama.cpp would choose too."""
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                                   "high_freq_factor": 4.0, "original_max_position_embeddings": 64}, "head_dim": 64}),
    ("qwen3", {"head_dim": 32}),
    ("mistral3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "mscale": 1.0,
                                      "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.25,
                                      "original_max_position_embeddings": 128}}),
]  # fmt: skip


@pytest.mark.parametrize(("arch", "changes"), CASES, ids=str)
def test_random_models_of_every_architecture_decode_alike(tmp_path: Path, arch: str, changes: dict[str, Any]) -> None:
    source = gguf_files.written(
        tmp_path / "source.gguf", gguf_files.oracle(arch, 3, vocab_size=TOKENS, **changes), arch
    )
    export(source, tmp_path / "model.gguf", "gguf", "f32")
    checkpoint = Checkpoint(tmp_path / "model.gguf", "test")
    model, tokenizer = checkpoint.load(torch.float32, torch.device("cpu"))
    prompt = tuple(range(5, 205))
    with TokenEngine(model, tokenizer.decode, tokenizer.vocab_size) as engine:
        ours = engine.decode(DecodeRequest(prompt=prompt, max_tokens=24)).token_ids
    process = PeerProcess(setup(checkpoint.directory, ends=model.config.eos_token_ids))
    found = process.run(Asked(prompt=prompt, max_tokens=24)).ids
    process.close()
    assert found == ours


def test_the_other_peers_say_why_they_do_not_run(reference: Engine, bundled: Path, tmp_path: Path) -> None:
    export(reference.checkpoint.directory, tmp_path / "model")
    for peer, said in (("openvino", "Unsupported model architecture 'mistral3'"), ("ort", "not currently supported")):
        with pytest.raises(CannotRun, match=said):
            PeerProcess(setup(bundled, peer, directory=str(tmp_path / "model"), folder=str(tmp_path)))


@pytest.mark.parametrize("drafts", [False, True])
def test_smollm2_in_openvino(drafts: bool) -> None:
    """It quantises activations, so ids are not ours; a schema holds."""
    path = locate("smollm2").directory
    process = PeerProcess(setup(path, "openvino", drafts, ends=(2, 0)))
    prompt = tuple(Checkpoint(path, "smollm2").tokenizer().encode_chat([{"role": "user", "content": "Paris?"}]))
    assert process.run(Asked(prompt=prompt, max_tokens=8)).decode_tokens <= 7
    held = process.run(Asked(prompt=prompt, max_tokens=24, schema=SCHEMA))
    process.close()
    assert "{" in Checkpoint(path, "smollm2").tokenizer().decode(held.ids)
