"""Shared parts of the APIs' requests: how a body becomes a model, neutral values, the `trimode` object, tools.

Knows pydantic and the documents of OpenAI's API. Does not know the engine. Whatever a model does not name is refused by
its name; parameters that the API has and we do not are accepted with the values that ask for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimode.engine.result import Mode
from trimode.policy.errors import shown

from ..refusals import BadParameter, MissingParameter, UnknownParameter, UnsupportedParameter

Neutral = Mapping[str, tuple[Any, ...]]
"""Parameters that are not supported, with the values that ask for nothing."""
Model = TypeVar("Model", bound="Wire")
NAME: Final = r"^[^\x00-\x1f\x7f]{1,256}$"
"""Names that reach logs and records: one line."""


class Wire(BaseModel):
    """A document of a request: unknown keys and values of other types are refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)


class TrimodeOptions(Wire):
    """How to decode: every key overrides the server's policy. `kind` of step; `step`: its name for policies and audit;
    `policy`: one of the server's, by name; `exact: false` allows diffusion; `deadline` in seconds."""

    mode: Mode | None = None
    kind: Literal["plan", "tool_call", "json", "prose", "choice", "turn"] | None = None
    step: Annotated[str, Field(pattern=NAME)] | None = None
    policy: Annotated[str, Field(pattern=NAME)] | None = None
    block_length: int | None = Field(default=None, ge=1)
    threshold: float | None = None
    rows: int | None = Field(default=None, ge=1)
    min_match: int | None = Field(default=None, ge=1)
    selection: Literal["vendor", "text_first"] | None = None
    exact: bool | None = None
    deadline: float | None = Field(default=None, gt=0)
    guarantee: Literal["grammar", "checked"] | None = None
    retries: int | None = Field(default=None, ge=0, le=16)
    max_thinking_tokens: int | None = Field(default=None, ge=0)


class FunctionTool(Wire):
    """What a tool is called and takes. Arguments always fit `parameters`, whether `strict` says so or not."""

    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Wire):
    type: Literal["function"]
    function: FunctionTool


class NamedFunction(Wire):
    name: str = Field(min_length=1, max_length=256)


class ChosenTool(Wire):
    type: Literal["function"]
    function: NamedFunction


class JsonSchemaFormat(Wire):
    name: str = Field(max_length=256)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Wire):
    """Plain text, any JSON object, or JSON that fits a schema, which is always enforced."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StreamOptions(Wire):
    """`include_obfuscation` is accepted: no padding is sent, because sizes of chunks are not hidden here."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


def validated(model: type[Model], body: Mapping[str, Any], neutral: Neutral) -> Model:
    """Returns the body as a model. Raises BadParameter and its kinds, which name the parameter."""
    kept = dict(body)
    for name, values in neutral.items():
        if name in kept:
            given = kept.pop(name)
            if not any(given == value and isinstance(given, bool) == isinstance(value, bool) for value in values):
                listed = " or ".join(repr(value) for value in values)
                raise UnsupportedParameter(
                    f"{name} is not supported by this server; leave it out, or say {listed}", name
                )
    try:
        return model.model_validate(kept)
    except ValidationError as error:
        raise _refused(error.errors(include_url=False, include_input=False), kept, (*model.model_fields,)) from None


def _refused(errors: Sequence[Any], body: Mapping[str, Any], known: Sequence[str]) -> BadParameter:
    """Returns the error of the first place that is wrong; among alternatives of one place, the deepest, and rather of
    one whose type is as given."""
    first = max(errors, key=_nearness) if _one_place(errors) else errors[0]
    place, kind = path_of(first["loc"], body), first["type"]
    if kind == "extra_forbidden":
        more = f"; known: {', '.join(known)}" if len(first["loc"]) == 1 else ""
        return UnknownParameter(f"unknown parameter {place}{more}", place)
    if kind == "missing":
        return MissingParameter(f"missing parameter {place}", place)
    return BadParameter(f"{place}: {_why(first)}", place)


def _nearness(error: Any) -> tuple[int, bool]:
    return len(error["loc"]), not error["type"].endswith("_type")


def _why(error: Any) -> str:
    """Returns what is wrong in words that name nothing of ours."""
    if error["type"] == "union_tag_invalid":
        return f"type {shown(error['ctx']['tag'])}: expected one of {error['ctx']['expected_tags']}"
    return "expected an object" if error["type"] == "model_type" else error["msg"]


def _one_place(errors: Sequence[Any]) -> bool:
    return len({one["loc"][0] for one in errors}) == 1


def path_of(location: Sequence[str | int], body: Any) -> str:
    """Returns pydantic's location as a path of the body, without the names of alternatives between its keys."""
    path, value = "", body
    for at, part in enumerate(location):
        last = at == len(location) - 1
        if isinstance(part, int):
            path += f"[{part}]"
            value = value[part] if isinstance(value, list) and part < len(value) else None
        elif isinstance(value, dict) and (part in value or (last and part.isidentifier())):
            path += f".{part}" if path else part
            value = value.get(part)
    return path
