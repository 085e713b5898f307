"""Where a checkpoint comes from: the bundled one, a directory, a GGUF file, a model that `trimode fetch` brought, or a
repository of the Hugging Face hub; what is read there, and the draft adapter that is loaded for it.

Knows paths, digests and which reader a path needs. Does not know formats.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import CheckpointError
from .adapter_drafting import DRAFTING, Base, read_drafting
from .config import ModelConfig
from .gguf.config import gguf_config
from .gguf.file import GgufFile
from .gguf.tokenizer import gguf_tokenizer
from .published import PUBLISHED
from .special_tokens import mask_of_files
from .tokenizer import Tokenizer
from .weight_files import ADAPTER, sha256, weight_files

if TYPE_CHECKING:
    import torch

    from .model import Transformer

BUNDLED: Final = "trimode-reference"
"""Name of the checkpoint that comes with the package."""
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WANTED: Final = ("*.json", "*.safetensors", "*.jinja", f"{ADAPTER}/*")
_UNWANTED: Final = ("consolidated*", "original/*")
"""File patterns of the same weights in Mistral's and Meta's own formats, which double the download."""
_DESCRIBED: Final = ("config.json", "generation_config.json")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory or GGUF file, and the name to show for it. Digests are computed once, when asked for.

    `adapter`: the directory of a draft adapter to load instead of the one that lies with the checkpoint, and its name.
    Whatever it reads raises CheckpointError, which says what was expected and what was found.
    """

    directory: Path
    name: str
    adapter: Path | None = None
    adapter_name: str = ""

    @property
    def is_gguf(self) -> bool:
        return self.directory.is_file()

    @cached_property
    def model_sha256(self) -> str:
        """Digest of the configs that decoding depends on, weights and adapter; of a GGUF file as it is."""
        if self.is_gguf:
            return sha256([self.directory])
        adapter: Sequence[Path] = sorted((self.directory / ADAPTER).glob("*"))
        configs = [path for name in _DESCRIBED if (path := self.directory / name).is_file()]
        return sha256([*configs, *weight_files(self.directory), *adapter])

    @cached_property
    def weights_sha256(self) -> str:
        """Digest of the weight files alone, without configs and adapters; of a GGUF file as it is."""
        return sha256([self.directory] if self.is_gguf else weight_files(self.directory))

    @cached_property
    def adapter_sha256(self) -> str:
        """Digest of the files of `adapter`, by name; empty without one."""
        return "" if self.adapter is None else sha256(sorted(path for path in self.adapter.iterdir() if path.is_file()))

    @cached_property
    def tokenizer_sha256(self) -> str:
        """Digest of tokenizer.json; for a GGUF file, of the one that is made of its metadata."""
        if self.is_gguf:
            return hashlib.sha256(self.tokenizer().json.encode()).hexdigest()
        return sha256([self.directory / "tokenizer.json"])

    def load(self, dtype: torch.dtype, device: torch.device, in_files: bool = False) -> tuple[Transformer, Tokenizer]:
        """The model, with its draft adapter if it has one, and its tokenizer. `in_files`: the model's matrices stay in
        the files, for kernels that pack them."""
        from .gguf.weights import load_gguf  # here, because schemas are checked without torch
        from .weights import load_model

        if self.is_gguf:
            file = GgufFile.read(self.directory)
            model, tokenizer = load_gguf(file, dtype, device, in_files), gguf_tokenizer(file)
        else:
            model = load_model(self.directory, dtype, device, self.adapter is None, in_files)
            tokenizer = Tokenizer.load(self.directory)
        if self.adapter is not None:
            self._adapt(self.adapter, model, dtype, device)
        elif (self.directory / ADAPTER / DRAFTING).is_file():
            model.config = self._drafting(self.directory / ADAPTER, model.config)
        return model, tokenizer

    def _adapt(self, adapter: Path, model: Transformer, dtype: torch.dtype, device: torch.device) -> None:
        """Adds the adapter to `model`, and to its config how the adapter drafts."""
        from .adapter_weights import check_files, load_adapter

        check_files(adapter)
        model.config = self._drafting(adapter, model.config)
        load_adapter(model, adapter, dtype, device)

    def _drafting(self, adapter: Path, config: ModelConfig) -> ModelConfig:
        base = Base(self.name, lambda: self.weights_sha256, self._mask)
        return replace(config, drafts=read_drafting(adapter, config, base))

    def _mask(self) -> int | None:
        return None if self.is_gguf else mask_of_files(self.directory)

    def config(self) -> ModelConfig:
        return gguf_config(GgufFile.read(self.directory)) if self.is_gguf else ModelConfig.load(self.directory)

    def tokenizer(self) -> Tokenizer:
        return gguf_tokenizer(GgufFile.read(self.directory)) if self.is_gguf else Tokenizer.load(self.directory)


def locate(source: str | Path | None, adapter: str | Path | None = None) -> Checkpoint:
    """Finds a checkpoint. `adapter`: directory or hub repository of the draft adapter to load for it, or its name, as
    in records, where it comes with this package. Raises CheckpointError."""
    found = _located(source)
    if adapter is None:
        return found
    if not isinstance(adapter, str | Path):
        raise CheckpointError(f"adapter={adapter!r}: expected a directory, a repository's name, or None")
    path = Path(adapter).expanduser()
    if not path.is_dir() and isinstance(adapter, str):
        shipped = (one.shipped_adapter for one in PUBLISHED.values())
        path = next((each for each in shipped if each is not None and each.name == adapter), path)
    if path.is_dir():
        return replace(found, adapter=path, adapter_name=path.resolve().name)
    if not isinstance(adapter, str) or path.exists() or not _HUB_ID.fullmatch(adapter):
        raise CheckpointError(f"adapter={str(adapter)!r}: no directory there; expected PEFT's two files in one")
    return replace(found, adapter=_download(adapter), adapter_name=adapter)


def shipped_adapter(source: str | Path | None) -> Path | None:
    """Returns the directory of the draft adapter that this package has for a published model, by the model's name."""
    found = PUBLISHED.get(source) if isinstance(source, str) and not Path(source).exists() else None
    return None if found is None else found.shipped_adapter


def _located(source: str | Path | None) -> Checkpoint:
    """Finds a checkpoint. None: the bundled one. An existing path: that directory or GGUF file. A name of `PUBLISHED`:
    what `trimode fetch` brought. `owner/name`: the hub, cache first."""
    if source is None:
        return Checkpoint(Path(str(files("trimode"))) / "checkpoints" / "reference", BUNDLED)
    if not isinstance(source, str | Path):
        raise CheckpointError(f"source={source!r}: expected a directory, a repository's name, or None")
    path = Path(source).expanduser()
    if path.exists():
        return Checkpoint(path, path.name)
    if isinstance(source, str) and source in PUBLISHED:
        return Checkpoint(PUBLISHED[source].fetched(), source)
    if not isinstance(source, str) or not _HUB_ID.fullmatch(source):
        raise CheckpointError(f"no checkpoint directory or GGUF file at {path}")
    return Checkpoint(_download(source), source)


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(_WANTED), ignore_patterns=list(_UNWANTED)))
    except Exception as error:  # the hub client raises whatever its HTTP stack raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"no directory named {repository!r} here, and the hub could not deliver it ({reason}); "
            "check the path, or download the checkpoint first"
        ) from None
