"""Types, JSON Schemas and tool lists as one thing: a `Schema` that yields grammar text and checks finished output.

Knows pydantic and jsonschema. Does not know tokens or grammar engines. Canonical text has no spaces between items, the
form that `episodes.canonical` writes.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import isinf
from typing import Annotated, Any, Final, cast, get_origin

import jsonschema
import jsonschema.protocols
import jsonschema.validators
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from .admission import Formats, check_document, check_json
from .errors import SchemaError, SchemaViolation, UnsatisfiableSchema, shown
from .texts import FORMS, TextTarget
from .walk import draft_of

Json = Any
_OWN_RULES: Final = "the type has rules that its JSON Schema does not show, so no grammar can hold them"
Tool = Mapping[str, Json] | Callable[..., Any]


class ToolCall(BaseModel):
    """A call that the model chose: the tool's name and arguments that fit the tool's parameters."""

    model_config = ConfigDict(frozen=True)
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Schema:
    """A JSON Schema with, where it came from a Python type, the adapter that builds the value."""

    document: dict[str, Json]
    adapter: TypeAdapter[Any] | None = None
    formats: Formats = "strict"
    """What happens to formats that neither the grammar nor jsonschema knows: refused, or left out with a note."""

    @cached_property
    def text(self) -> str:
        """The document with its keys as given: their order is that of the output."""
        return json.dumps(self.document)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.document, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _oracle(self) -> jsonschema.protocols.Validator:
        draft = jsonschema.validators.validator_for(self.document, default=jsonschema.Draft202012Validator)
        kind: Any = jsonschema.validators.extend(draft, {"multipleOf": _multiple})  # type: ignore[no-untyped-call]
        oracle: jsonschema.protocols.Validator = kind(self.document, format_checker=kind.FORMAT_CHECKER)
        return oracle

    def parse(self, text: str) -> Any:
        """The value of finished output. Raises SchemaViolation where an oracle disagrees."""
        try:
            value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        except ValueError as error:
            raise SchemaViolation(text, f"not JSON: {error}") from None
        wrong = next(iter(self._oracle.iter_errors(value)), None)
        if wrong is not None:
            raise SchemaViolation(text, f"jsonschema at {wrong.json_path}: {wrong.message}")
        if self.adapter is None:
            return value
        try:
            return self.adapter.validate_json(text)
        except ValidationError as error:
            raise SchemaViolation(text, reasons(error), _OWN_RULES) from None

    def remarks(self, text: str) -> list[str]:
        """What readers of finished text should know: keys that stand twice."""
        return [f"key {key!r} is written twice in one object; its last value counts" for key in doubled_keys(text)]


Target = Schema | TextTarget
"""What output may be held to: all have a `document`, a `sha256`, `parse` and `remarks`."""


def doubled_keys(text: str) -> list[str]:
    """Keys that stand twice in one object of `text`. Readers keep the last; no grammar remembers open keys."""
    doubled: list[str] = []

    def keep(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        doubled.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return dict(pairs)

    json.loads(text, object_pairs_hook=keep)
    return doubled


def schema_of(target: Any, *, formats: Formats | None = None) -> Target:
    """`target`: a JSON Schema (dict, True), a list of tools, a type that pydantic understands, or a plain text's
    Regex, Choice or Lark (as such, as `Annotated[str, Regex(...)]`, or as the `document` that records hold).

    `formats`: "strict" (as without it) refuses formats that nobody here can check; "annotate" leaves them out, and the
    grammar's notes say so. Raises SchemaError and its kinds.
    """
    schema = _schema_of(target)
    if formats is None:
        return schema
    if not isinstance(schema, Schema):
        raise SchemaError(f"formats={formats!r}: a {schema.kind} has no formats; they belong to JSON Schemas")
    return replace(schema, formats=formats)


def _schema_of(target: Any) -> Target:
    if isinstance(target, Target):
        return target
    if (text := _text_target(target)) is not None:
        return text
    if target is True:
        return _checked({})
    if target is False:
        raise UnsatisfiableSchema("", "", "schema False allows no value at all; pass a schema that does")
    if isinstance(target, Mapping):
        return _checked(dict(target))
    if isinstance(target, Sequence) and not isinstance(target, str | bytes):
        return tool_schema(target)
    return _typed(target)


def _text_target(target: Any) -> TextTarget | None:
    """The Regex, Choice or Lark in `Annotated[str, ...]` or in a document that holds nothing else."""
    if isinstance(target, Mapping) and len(target) == 1 and (form := FORMS.get(next(iter(target)))) is not None:
        return form(*target.values())
    if get_origin(target) is not Annotated:
        return None
    target = cast(Any, target)
    found = [held for held in target.__metadata__ if isinstance(held, TextTarget)]
    if found and (len(found) > 1 or target.__origin__ is not str):
        raise SchemaError(f"{shown(target)}: expected Annotated[str, ...] with one {found[0].kind}")
    return found[0] if found else None


def tool_schema(tools: Sequence[Tool]) -> Schema:
    """One call of one of `tools`: {"name": ..., "arguments": {...}}, arguments held to that tool's parameters."""
    if not tools:
        raise SchemaError("an empty tool list allows no call; pass at least one tool")
    described = [describe_tool(tool) for tool in tools]
    if len({tool["name"] for tool in described}) < len(described):
        raise SchemaError(f"tool names must differ, found {[tool['name'] for tool in described]}")
    check_json(_one_of([_call(tool["name"], tool["parameters"]) for tool in described]))  # before anything is walked
    draft, described = _shared_draft(described)
    places = [f"#/anyOf/{i}" if len(described) > 1 else "#" for i in range(len(described))]
    calls = [
        _call(tool["name"], _moved(tool["parameters"], f"{place}/properties/arguments"))
        for tool, place in zip(described, places, strict=True)
    ]
    document = {**draft, **_one_of(calls)}
    return Schema(_checked(document).document, TypeAdapter(ToolCall))


def _shared_draft(tools: list[dict[str, Json]]) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """The `$schema` that all parameters name, and the tools without it: it belongs at the top of a document.

    Draft 4 has no `const`, which the schema of a call needs, and so stays where it is.
    """
    named = {json.dumps(tool["parameters"].get("$schema")) for tool in tools}
    draft = tools[0]["parameters"].get("$schema")
    if len(named) > 1 or not isinstance(draft, str) or "const" not in draft_of({"$schema": draft}).VALIDATORS:
        return {}, tools
    bare = [{k: v for k, v in tool["parameters"].items() if k != "$schema"} for tool in tools]
    return {"$schema": draft}, [
        {**tool, "parameters": parameters} for tool, parameters in zip(tools, bare, strict=True)
    ]


def describe_tool(tool: Tool) -> dict[str, Json]:
    """{"name", "description", "parameters"} of a tool dict (bare or in OpenAI's envelope) or of a typed function."""
    if isinstance(tool, Mapping):
        bare = tool.get("function", tool)
        if not isinstance(bare, Mapping) or not isinstance(bare.get("name"), str) or not bare["name"]:
            raise SchemaError(f"a tool needs a name, a description and parameters, found {shown(dict(tool))}")
        parameters = _parameters(bare["name"], bare.get("parameters"))
        return {"name": bare["name"], "description": bare.get("description", ""), "parameters": parameters}
    name = getattr(tool, "__name__", "tool")
    return {"name": name, "description": inspect.getdoc(tool) or "", "parameters": _typed(tool).document}


def _parameters(name: str, given: Json) -> dict[str, Json]:
    """Parameters as the schema of an object, which is what a call's arguments are."""
    if not given:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(given, Mapping) or given.get("type", "object") != "object":
        raise SchemaError(f"tool {name!r}: parameters must be a JSON Schema of type object, found {shown(given)}")
    return {"type": "object", **given}


def _one_of(calls: list[dict[str, Json]]) -> dict[str, Json]:
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def _call(name: str, arguments: dict[str, Json]) -> dict[str, Json]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Json, place: str) -> Json:
    """`schema` as it reads inside a larger document: local references point to where its parts are now."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, place) for key, value in schema.items()}
    if isinstance(target := schema.get("$ref"), str) and target.startswith("#"):
        moved["$ref"] = place + target[1:]
    return moved


def _typed(target: Any) -> Schema:
    if isinstance(target, str | bytes | int | float | tuple | list):
        hint = "pass a type, a JSON Schema as a dict, or a list of tools"
        raise SchemaError(f"cannot make a schema of {shown(target)}: a {type(target).__name__} is no type; {hint}")
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(target)
        document = adapter.json_schema(schema_generator=_Writable)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise SchemaError(f"cannot make a schema of {shown(target)}: {str(error).splitlines()[0][:200]}") from None
    # pydantic ignores surplus keys, so a model must not be able to write them.
    return Schema(_checked(_closed(document)).document, adapter)


class _Writable(GenerateJsonSchema):
    """JSON Schemas whose every text the type takes: pydantic's own lets a Decimal be any string."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> dict[str, Json]:
        made = super().decimal_schema(schema)
        return next((part for part in made.get("anyOf", ()) if part.get("type") == "number"), made)


def reasons(error: ValidationError) -> str:
    """What pydantic found wrong, place by place."""
    found = error.errors(include_url=False, include_context=False)
    return "; ".join(f"pydantic at {'.'.join(map(str, one['loc'])) or 'the top'}: {one['msg']}" for one in found)


def _closed(schema: Json) -> Json:
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def _checked(document: dict[str, Json]) -> Schema:
    check_document(document)
    return Schema(document)


def _multiple(_: Any, step: float, value: Json, __: Json) -> Iterator[jsonschema.ValidationError]:
    """multipleOf on decimal digits: in binary, 2.4 is no multiple of 0.1."""
    if isinstance(value, int | float) and not isinstance(value, bool) and _exact(value) % _exact(step):
        yield jsonschema.ValidationError(f"{value!r} is not a multiple of {step!r}")


def _exact(number: float) -> Fraction:
    return Fraction(number) if isinstance(number, int) else Fraction(repr(number))


def _finite(digits: str) -> float:
    if isinf(number := float(digits)):
        raise ValueError(f"{digits[:40]} is infinite to readers")
    return number


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")
