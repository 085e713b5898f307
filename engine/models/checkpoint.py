"""Where a checkpoint comes from: the bundled one, a directory, or a repository of the Hugging Face hub.

Knows paths and digests. Does not know models or tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Final

from ..errors import CheckpointError
from .weights import ADAPTER, sha256, weight_files

BUNDLED: Final = "trimode-reference"
"""Name of the checkpoint that comes with the package."""
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WANTED: Final = ("*.json", "*.safetensors", "*.jinja", f"{ADAPTER}/*")
_UNWANTED: Final = ("consolidated*", "original/*")
"""File patterns of the same weights in Mistral's and Meta's own formats, which double the download."""
_DESCRIBED: Final = ("config.json", "generation_config.json")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory and the name to show for it. Digests are computed once, when first asked for."""

    directory: Path
    name: str

    @cached_property
    def model_sha256(self) -> str:
        """Digest of the configs that decoding depends on, weights and adapter."""
        adapter: Sequence[Path] = sorted((self.directory / ADAPTER).glob("*"))
        configs = [path for name in _DESCRIBED if (path := self.directory / name).is_file()]
        return sha256([*configs, *weight_files(self.directory), *adapter])

    @cached_property
    def tokenizer_sha256(self) -> str:
        return sha256([self.directory / "tokenizer.json"])


def locate(source: str | Path | None) -> Checkpoint:
    """Finds a checkpoint: None is the bundled one, an existing path a directory, `owner/name` the hub, cache first."""
    if source is None:
        return Checkpoint(Path(str(files("trimode"))) / "checkpoints" / "reference", BUNDLED)
    if not isinstance(source, str | Path):
        raise CheckpointError(f"source={source!r}: expected a directory, a repository's name, or None")
    path = Path(source).expanduser()
    if path.exists():
        return Checkpoint(path, path.name)
    if not isinstance(source, str) or not _HUB_ID.fullmatch(source):
        raise CheckpointError(f"no checkpoint directory at {path}")
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
