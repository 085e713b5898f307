"""Python types as JSON Schemas, with the adapter that builds the value. Knows pydantic. Does not know grammars."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from ..errors import SchemaError, shown

Json = Any


def typed(target: Any) -> tuple[dict[str, Json], TypeAdapter[Any]]:
    """The schema of what may be written for a type or a typed function. Raises SchemaError where it is none."""
    if isinstance(target, str | bytes | int | float | tuple | list):
        hint = "pass a type, a JSON Schema as a dict, or a list of tools"
        raise SchemaError(f"cannot make a schema of {shown(target)}: a {type(target).__name__} is no type; {hint}")
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(target)
        document = adapter.json_schema(schema_generator=_Writable)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise SchemaError(f"cannot make a schema of {shown(target)}: {str(error).splitlines()[0][:200]}") from None
    # pydantic ignores surplus keys, so a model must not be able to write them.
    return _closed(document), adapter


def reasons(error: ValidationError) -> str:
    """What pydantic found wrong, place by place."""
    found = error.errors(include_url=False, include_context=False)
    return "; ".join(f"pydantic at {'.'.join(map(str, one['loc'])) or 'the top'}: {one['msg']}" for one in found)


class _Writable(GenerateJsonSchema):
    """JSON Schemas whose every text the type takes: pydantic's own lets a Decimal be any string."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> dict[str, Json]:
        made = super().decimal_schema(schema)
        return next((part for part in made.get("anyOf", ()) if part.get("type") == "number"), made)


def _closed(schema: Json) -> Json:
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed
