"""The prefix index: which pages have the keys and values of which tokens, so that requests share common prefixes.

Knows token ids and page numbers. Does not know requests. A radix tree whose edges are pages: a node is one page and the
tokens in it, below the pages before it. Reuse changes no token, because entries are bitwise what prefill would write.
If an entry has seen the later tokens of its block, only whole blocks are stored and found. Each scope has a tree of its
own, so that neither time nor counts of one tenant's requests tell what another's have read. The index has one reference
to each of its pages; pages without other references may be evicted, least recently used first, of whatever scope.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest

from .pages import PAGE, PagePool, pages_for

Tokens = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Node:
    """`tokens` (at most PAGE) whose entries are in `page`; only a full page has children."""

    tokens: Tokens
    page: int
    parent: Node | None
    used: int = 0
    children: dict[Tokens, Node] = field(default_factory=dict)


_EMPTY = Node((), -1, None)
"""The tree of a scope that has stored nothing; never changed."""


@dataclass(frozen=True, slots=True)
class Match:
    """A stored prefix of `length` tokens: `pages` to share, and a `partial` page to copy, whose first tokens match."""

    pages: list[int]
    partial: int | None
    length: int

    @property
    def whole(self) -> Match:
        """The match without the page to copy."""
        return Match(self.pages, None, len(self.pages) * PAGE)


class PrefixIndex:
    """Finds, stores and evicts prefixes. `enabled=False` never finds anything.

    `block`: tokens whose entries depend on each other, counted from position 0. A block that does not divide a page
    would extend over two pages, and two texts may share the first page without the second: such an index is not
    enabled.
    """

    pool: PagePool
    enabled: bool
    block: int

    def __init__(self, pool: PagePool, enabled: bool = True, block: int = 1) -> None:
        self.pool, self.enabled, self.block = pool, enabled and PAGE % block == 0, block
        self._roots: dict[str | None, Node] = {}
        self._clock = 0

    def match(self, tokens: Sequence[int], scope: str | None = None) -> Match:
        """Returns the longest prefix of `tokens` that `scope` has stored, to the token or the last whole block."""
        node, pages = self._roots.get(scope, _EMPTY), list[int]()
        while found := node.children.get(tuple(tokens[len(pages) * PAGE : (len(pages) + 1) * PAGE])):
            if len(found.tokens) < PAGE:
                break
            node = self._touch(found)
            pages.append(found.page)
        rest = tuple(tokens[len(pages) * PAGE :])
        best = max(node.children.values(), key=lambda child: _common(child.tokens, rest), default=None)
        extra = 0 if best is None else _common(best.tokens, rest) // self.block * self.block
        if best is None or not extra:
            return Match(pages, None, len(pages) * PAGE)
        return Match(pages, self._touch(best).page, len(pages) * PAGE + extra)

    def insert(self, tokens: Sequence[int], pages: Sequence[int], scope: str | None = None) -> None:
        """Stores for `scope` that `pages` have `tokens` (whole blocks of them); adds a reference to each new page."""
        if not self.enabled:
            return
        tokens = tokens[: len(tokens) // self.block * self.block]
        if not tokens:
            return
        node = self._roots.setdefault(scope, Node((), -1, None))
        for at, page in enumerate(pages[: pages_for(len(tokens))]):
            part = tuple(tokens[at * PAGE : (at + 1) * PAGE])
            node = self._touch(self._child(node, part, page))

    def evict(self, count: int) -> int:
        """Frees up to `count` pages without other references, and returns how many it freed."""
        freed = 0
        # One sweep over all nodes per generation of leaves, not per page, because a full pool evicts all the time.
        while freed < count and (leaves := nsmallest(count - freed, self._idle(), key=lambda node: node.used)):
            for leaf in leaves:
                self._remove(leaf)
            freed += len(leaves)
        self._roots = {scope: root for scope, root in self._roots.items() if root.children}
        return freed

    @property
    def scopes(self) -> int:
        """Scopes that have pages in the index."""
        return len(self._roots)

    @property
    def pages(self) -> int:
        """Pages in the index."""
        return sum(1 for _ in self.nodes())

    def clear(self) -> None:
        """Gives all pages back."""
        for node in list(self.nodes()):
            self.pool.drop([node.page])
        self.forget()

    def forget(self) -> None:
        """Begins empty, of a pool whose pages were all freed."""
        self._roots.clear()

    def _child(self, node: Node, part: Tokens, page: int) -> Node:
        """Returns the child for `part`, created if needed; a shorter child that `part` continues is replaced."""
        if same := node.children.get(part):
            return same
        longer = (child for child in node.children.values() if child.tokens[: len(part)] == part)
        if found := next(longer, None):
            return found
        for child in [c for c in node.children.values() if part[: len(c.tokens)] == c.tokens]:
            self._remove(child)
        self.pool.hold([page])
        added = node.children[part] = Node(part, page, node)
        return added

    def _remove(self, node: Node) -> None:
        assert node.parent is not None
        assert not node.children
        del node.parent.children[node.tokens]
        self.pool.drop([node.page])

    def _touch(self, node: Node) -> Node:
        self._clock += 1
        node.used = self._clock
        return node

    def nodes(self) -> Iterator[Node]:
        """Yields every stored page, parents before children."""
        stack = [node for root in self._roots.values() for node in root.children.values()]
        while stack:
            node = stack.pop()
            yield node
            stack += node.children.values()

    def _idle(self) -> Iterator[Node]:
        return (n for n in self.nodes() if not n.children and self.pool.references[n.page] == 1)


def page_prefixes(tokens: Tokens) -> Iterator[Tokens]:
    """Yields `tokens` up to the end of each whole page."""
    return (tokens[:end] for end in range(PAGE, len(tokens) + 1, PAGE))


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
