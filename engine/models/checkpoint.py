"""Where a checkpoint comes from: the bundled one, a directory, a GGUF file, a model that `trimode fetch` brought, or a
repository of the Hugging Face hub; and what is read there.

Knows paths, digests and which reader a path needs. Does not know formats.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import CheckpointError
from .config import ModelConfig
from .gguf_config import gguf_config
from .gguf_file import GgufFile
from .gguf_tokenizer import gguf_tokenizer
from .published import PUBLISHED
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

    Whatever it reads raises CheckpointError, which says what was expected and what was found.
    """

    directory: Path
    name: str

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
    def tokenizer_sha256(self) -> str:
        """Digest of tokenizer.json; for a GGUF file, of the one that is made of its metadata."""
        if self.is_gguf:
            return hashlib.sha256(self.tokenizer().json.encode()).hexdigest()
        return sha256([self.directory / "tokenizer.json"])

    def load(self, dtype: torch.dtype, device: torch.device) -> tuple[Transformer, Tokenizer]:
        """The model, with its draft adapter if it has one, and its tokenizer."""
        from .gguf_weights import load_gguf  # here, because schemas are checked without torch
        from .weights import load_model

        if self.is_gguf:
            file = GgufFile.read(self.directory)
            return load_gguf(file, dtype, device), gguf_tokenizer(file)
        return load_model(self.directory, dtype, device), Tokenizer.load(self.directory)

    def config(self) -> ModelConfig:
        return gguf_config(GgufFile.read(self.directory)) if self.is_gguf else ModelConfig.load(self.directory)

    def tokenizer(self) -> Tokenizer:
        return gguf_tokenizer(GgufFile.read(self.directory)) if self.is_gguf else Tokenizer.load(self.directory)


def locate(source: str | Path | None) -> Checkpoint:
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
