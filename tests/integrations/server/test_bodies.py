"""Bodies within limits: whatever is sent, an object comes out or a refusal that says why."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode.integrations.server.refusals import BadBody
from trimode.integrations.server.wire.bodies import parsed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_is_json_comes_back(document: dict[str, Any]) -> None:
    assert parsed(json.dumps(document, ensure_ascii=False).encode(), 64) == document


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(body: bytes) -> None:
    with suppress(BadBody):
        assert isinstance(parsed(body, 8), dict)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"[1]", "no object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "range"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udc00": 1}', "surrogate"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": ' + b"[" * 90 + b"]" * 90 + b"}", "deeper"),
        (b'{"a": ' + b"[" * 90_000 + b"]" * 90_000 + b"}", "deeper"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_refusals_say_why(body: bytes, why: str) -> None:
    with pytest.raises(BadBody, match=why):
        parsed(body, 64)


@pytest.mark.parametrize("depth", [4, 9])
def test_the_limit_of_depth_is_exact(depth: int) -> None:
    def nested(levels: int) -> bytes:
        return b'{"a": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"

    assert parsed(nested(depth), depth)
    with pytest.raises(BadBody, match="deeper"):
        parsed(nested(depth + 1), depth)
