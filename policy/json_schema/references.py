"""Resolution of the references in a schema document: base addresses, anchors and drafts.

Knows `$id`, `$anchor`, `$dynamicAnchor`, `$recursiveAnchor` and draft 4's `id`, as the specifications define them. Does
not know what schemas mean, and fetches no other documents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

import jsonschema.protocols

from .document import Where, below, draft_of, pointer

Json = Any
Draft = type[jsonschema.protocols.Validator]


@dataclass(frozen=True, slots=True)
class Scope:
    """What a schema inherits: the base address of its references, and its draft."""

    base: str
    draft: Draft

    @property
    def reference_rules_alone(self) -> bool:
        """Whether keywords next to `$ref` are ignored, as in drafts up to 7."""
        return "unevaluatedItems" not in self.draft.VALIDATORS


@dataclass
class References:
    """The schemas of a document by their paths, with the addresses and anchors that references may use."""

    document: Json
    scopes: dict[Where, Scope] = field(default_factory=dict)
    _resources: dict[str, Where | None] = field(default_factory=dict)
    """Paths of schemas by their address; None where two have the same, because validators differ about those."""
    _anchors: dict[tuple[str, str], Where | None] = field(default_factory=dict)
    """Paths of schemas by base address and anchor; None where two have the same."""
    _dynamic: Counter[str] = field(default_factory=Counter[str])
    """Number of dynamic anchors by name; "" stands for `$recursiveAnchor`."""

    def __post_init__(self) -> None:
        self._resources[""] = ()
        self._walk((), self.document, Scope("", draft_of(self.document)))

    def scope(self, where: Where) -> Scope:
        """The scope of the schema at `where`, which may be one that only a reference reaches."""
        if where not in self.scopes:
            above = next(where[:end] for end in range(len(where) - 1, -1, -1) if where[:end] in self.scopes)
            self._walk(where, self.part(where), self.scopes[above])
        return self.scopes[where]

    def part(self, where: Where) -> Json:
        """The part of the document at `where`. Raises LookupError or TypeError where there is none."""
        part = self.document
        for step in where:
            part = part[step]
        return part

    def target(self, where: Where, keyword: str) -> Where | None:
        """The path of a reference's target, from the schema at `where`; None if ambiguous or not in the document.

        Dynamic references are ambiguous where several anchors have their name.
        """
        scope, reference = self.scope(where), self.part(where)[keyword]
        if not isinstance(reference, str):
            return None
        if keyword == "$recursiveRef" and self._dynamic[""] > 1:
            return None
        if keyword == "$dynamicRef" and self._dynamic[urldefrag(reference).fragment] > 1:
            return None
        with suppress(ValueError, LookupError, TypeError):
            return self._found(scope.base, reference)
        return None

    def unresolved(self) -> Iterator[tuple[str, str]]:
        """Pointers to references without a target in the document, and the keyword."""
        for where in list(self.scopes):
            schema = self.part(where)
            for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
                known = isinstance(schema, dict) and keyword in self.scope(where).draft.VALIDATORS
                if known and keyword in schema and self._unresolved(where, keyword):
                    yield pointer((*where, keyword)), keyword

    def _unresolved(self, where: Where, keyword: str) -> bool:
        try:
            self._found(self.scope(where).base, self.part(where)[keyword])
        except (ValueError, LookupError, TypeError, AttributeError):
            return True
        return False

    def _found(self, base: str, reference: str) -> Where:
        """The path of the target. Raises LookupError, TypeError, ValueError or AttributeError where there is none."""
        if reference.startswith("#"):  # not by urljoin, because some bases, such as URNs, have no relative addresses
            address, fragment = base, reference[1:]
        else:
            address, fragment = urldefrag(urljoin(base, reference))
        fragment = unquote(fragment)
        is_anchor = fragment and not fragment.startswith("/")
        where = self._anchors[address, fragment] if is_anchor else self._resources[address]
        if where is None:
            raise LookupError(reference)
        if is_anchor:
            return where
        part = self.part(where)
        for step in fragment.split("/")[1:]:
            name: Any = step.replace("~1", "/").replace("~0", "~")
            name = int(name) if isinstance(part, list) and name.isdecimal() else name
            where, part = (*where, name), part[name]
        if not isinstance(part, dict | bool):
            raise LookupError(reference)
        return where

    def _walk(self, where: Where, schema: Json, scope: Scope) -> None:
        """Records the scopes, addresses and anchors of `schema` and all schemas in it. `scope`: inherited by it."""
        stack: list[tuple[Where, Json, Scope]] = [(where, schema, scope)]
        while stack:
            where, schema, scope = stack.pop()
            if where in self.scopes:
                continue
            if not isinstance(schema, dict):
                if isinstance(schema, bool):
                    self.scopes[where] = scope
                continue
            scope = self._entered(where, schema, scope)
            self.scopes[where] = scope
            stack.extend((where + step, child, scope) for step, child in below(schema))

    def _entered(self, where: Where, schema: dict[str, Json], scope: Scope) -> Scope:
        """The scope inside `schema`; records its address and anchors."""
        draft = draft_of(schema) if isinstance(schema.get("$schema"), str) else scope.draft
        inside = Scope(scope.base, draft)
        name = schema.get("$id" if "const" in draft.VALIDATORS else "id")
        if isinstance(name, str) and not (inside.reference_rules_alone and "$ref" in schema):
            with suppress(ValueError):
                inside = self._identified(where, name, inside)
        if not inside.reference_rules_alone:
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(name := schema.get(keyword), str):
                    self._anchor(inside.base, name, where)
            if isinstance(name := schema.get("$dynamicAnchor"), str):
                self._dynamic[name] += 1
            self._dynamic[""] += schema.get("$recursiveAnchor") is True
        return inside

    def _anchor(self, base: str, name: str, where: Where) -> None:
        """Records an anchor."""
        self._anchors[base, name] = where if self._anchors.get((base, name), where) == where else None

    def _identified(self, where: Where, name: str, scope: Scope) -> Scope:
        """Records the address of a schema with `$id` and returns its scope."""
        if name.startswith("#") and scope.reference_rules_alone:  # an anchor in old drafts
            self._anchor(scope.base, name[1:], where)
            return scope
        base = urljoin(scope.base, name).rstrip("#")
        known = self._resources.get(base, where)
        self._resources[base] = known if known in ((), where) else None
        return Scope(base, scope.draft)
