"""Kinds of servers that are known by their documentation alone, as tables over the driver of OpenAI's API.

Knows what TensorRT-LLM's `trtllm-serve`, TGI and mlx's servers document. None of them was run: their capabilities say
`contract_only`, and their schemas count as kept only after the probe.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from trimode.policy.remote import Capabilities, Constraint, Dialect

from .openai import STRICT, TABLE, Driver

_KEYWORDS: Final = (STRICT.keywords or frozenset()) | {"minLength", "maxLength"}
_COMMON: Final[dict[str, Any]] = {
    "table": TABLE,
    "contract_only": True,
    "tool_steps": "message",
    "seeds": "best effort",
}


class TensorRtDriver(Driver):
    """`trtllm-serve`: guided decoding by xgrammar or llguidance, if it was launched with one."""

    kind: ClassVar[str] = "tensorrt-llm"
    dialect: ClassVar[Dialect] = Dialect(name="TensorRT-LLM", forms=frozenset({"json"}), keywords=_KEYWORDS)
    max_tokens: ClassVar[str] = "max_tokens"
    table: ClassVar[dict[str, Any]] = {**_COMMON, "parameters": frozenset({"seed", "top_k"})}


class TgiDriver(Driver):
    """Text Generation Inference: a `response_format` of its own shape, by outlines."""

    kind: ClassVar[str] = "tgi"
    dialect: ClassVar[Dialect] = Dialect(
        name="TGI", forms=frozenset({"json"}),
        keywords=_KEYWORDS - {"exclusiveMinimum", "exclusiveMaximum", "minimum", "maximum", "multipleOf"},
    )  # fmt: skip
    max_tokens: ClassVar[str] = "max_tokens"
    table: ClassVar[dict[str, Any]] = {**_COMMON, "parameters": frozenset({"seed"})}

    def constrained(self, constraint: Constraint | None, can: Capabilities) -> dict[str, Any]:  # noqa: ARG002
        if constraint is None:
            return {}
        schema = {"enum": constraint.given} if constraint.form == "choice" else constraint.given
        return {"response_format": {"type": "json_object", "value": schema}}


class MlxDriver(Driver):
    """mlx-lm's and mlx-vlm's servers: no constraint is documented for every mode, so none is counted on."""

    kind: ClassVar[str] = "mlx"
    dialect: ClassVar[Dialect] = Dialect(name="mlx")
    max_tokens: ClassVar[str] = "max_tokens"
    table: ClassVar[dict[str, Any]] = {**_COMMON, "parameters": frozenset({"seed"})}
