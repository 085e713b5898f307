"""Small schemas and values that may fit them, made up by hypothesis."""

from __future__ import annotations

import json
from typing import Any, Final

from hypothesis import strategies as st

Json = Any
NAMES: Final = ("a", "b", "k")
LEAVES: Final = st.one_of(
    st.just({}), st.just({"type": "null"}), st.just({"type": "boolean"}),
    st.builds(lambda low, high: {"type": "integer", "minimum": low, "maximum": high}, st.integers(-2, 2),
              st.integers(0, 9)),
    st.builds(lambda n: {"type": "integer", "multipleOf": n}, st.sampled_from([2, 3])),
    st.builds(lambda low: {"type": "number", "exclusiveMinimum": low}, st.sampled_from([0, 0.5, -1])),
    st.builds(lambda least, span: {"type": "string", "minLength": least, "maxLength": least + span}, st.integers(0, 2),
              st.integers(0, 2)),
    st.builds(lambda pattern: {"type": "string", "pattern": pattern},
              st.sampled_from(["^a", "b$", "^[^b]*$", r"\d", r"^\D+$", r"^\W", r"\S"])),
    st.builds(lambda values: {"enum": values}, st.lists(st.sampled_from([None, True, 1, 2.5, "a", "b"]), min_size=1,
                                                        max_size=3, unique_by=json.dumps)),
    st.just({"type": "string", "format": "date"}),
)  # fmt: skip


def _grown(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    objects = st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)},
        optional={
            "required": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
            "additionalProperties": st.booleans() | inner,
            "dependentRequired": st.just({"a": ["b"]}),
        },
    )
    arrays = st.fixed_dictionaries(
        {"type": st.just("array"), "items": inner},
        optional={"minItems": st.integers(0, 2), "maxItems": st.integers(1, 3)},
    )
    cases = st.builds(
        lambda key, parts: {key: parts}, st.sampled_from(["anyOf", "oneOf"]), st.lists(inner, min_size=1, max_size=2)
    )
    return objects | arrays | cases


SCHEMAS: Final = st.recursive(LEAVES, _grown, max_leaves=5)
SCALARS: Final = st.sampled_from(
    [None, True, False, 0, 1, 2, 3, 6, -1, 2.5, 0.25, "", "a", "ab", "b", "-", "\u0663", "2024-02-29"]
)
VALUES: Final = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from((*NAMES, "z")), inner, max_size=3),
    max_leaves=5,
)
