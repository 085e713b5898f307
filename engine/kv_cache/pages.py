"""Paged keys and values: a pool of pages of fixed size with reference counts.

Knows tensors and page numbers. Does not know tokens or requests. A page has `PAGE` positions of every layer and is the
attention's key tile. Entries are written by trunk rows with base weights only, so pages serve every mode and may be
shared; a page with more than one reference is never written.
"""

from __future__ import annotations

import torch

from trimode.kernels import ops

from ..models.config import ModelConfig

PAGE = ops.PAGE


def page_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Returns the bytes of one page: keys and values of `PAGE` positions in all layers."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * PAGE * config.head_dim * dtype.itemsize


def pages_for(tokens: int) -> int:
    return -(-tokens // PAGE)


class PagePool:
    """keys [layers, pages, K, D, PAGE] and values [layers, pages, K, PAGE, D] within `size` bytes.

    `references[page]` is the page's reference count.
    """

    pages: int
    keys: torch.Tensor
    values: torch.Tensor
    references: list[int]

    def __init__(self, config: ModelConfig, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.pages = size // page_bytes(config, dtype)
        outer = (config.num_hidden_layers, self.pages, config.num_key_value_heads)
        # Not zeroed here, because untouched memory costs nothing; `take` zeroes the pages it returns.
        self.keys = torch.empty(*outer, config.head_dim, PAGE, dtype=dtype, device=device)
        self.values = torch.empty(*outer, PAGE, config.head_dim, dtype=dtype, device=device)
        self.clear()

    def clear(self) -> None:
        """Every page is free, whoever held it."""
        self.references = [0] * self.pages
        self._free = list(range(self.pages - 1, -1, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Returns `count` fresh pages, one reference each; zeroed, because attention reads whole pages and masks."""
        taken = [self._free.pop() for _ in range(count)]
        for page in taken:
            self.references[page] = 1
            self.keys[:, page] = 0
            self.values[:, page] = 0
        return taken

    def hold(self, pages: list[int]) -> None:
        """Adds a reference to each page."""
        for page in pages:
            self.references[page] += 1

    def drop(self, pages: list[int]) -> None:
        """Removes a reference from each page; pages without references become free."""
        for page in pages:
            self.references[page] -= 1
            if not self.references[page]:
                self._free.append(page)

    def copy(self, source: int, target: int) -> None:
        self.keys[:, target] = self.keys[:, source]
        self.values[:, target] = self.values[:, source]
