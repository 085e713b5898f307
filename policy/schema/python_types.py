"""Python types as JSON Schemas, with the adapter that builds the value.

Knows pydantic. Does not know tools or grammars.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, cast

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from ..errors import SchemaError, shown

Json = Any


def typed(target: Any) -> tuple[dict[str, Json], TypeAdapter[Any]]:
    """The JSON Schema and the adapter of a type or a typed function. Raises SchemaError for anything else."""
    if isinstance(target, str | bytes | int | float | tuple | list):
        hint = "pass a type, a JSON Schema as a dict, or a list of tools"
        raise SchemaError(f"cannot make a schema of {shown(target)}: a {type(target).__name__} is no type; {hint}")
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(target)
        document = adapter.json_schema(schema_generator=_Writable)
    except (PydanticSchemaGenerationError, PydanticUserError, *_UNREAD) as error:
        raise SchemaError(f"cannot make a schema of {shown(target)}: {str(error).splitlines()[0][:200]}") from None
    # pydantic ignores surplus keys, so a model must not be able to write them.
    return _closed(document), adapter


_UNREAD: Final = (NameError, SyntaxError, AttributeError, TypeError, ValueError)
"""Errors of evaluating annotations that are texts, or that name what cannot be found."""


def function_of(tool: Callable[..., Any]) -> Callable[..., Any]:
    """A function with the arguments and types of a method, a partial or another callable object.

    A function is needed because pydantic resolves names in annotations for functions and classes alone. Raises
    SchemaError where the object has no readable signature.
    """
    if inspect.isfunction(tool) or inspect.isclass(tool):
        return tool
    try:
        signature = inspect.signature(tool, eval_str=True)
    except _UNREAD as error:
        raise SchemaError(f"cannot tell what {shown(tool)} takes: {str(error)[:200]}") from None

    def called(*args: Any, **kwargs: Any) -> Any:
        return tool(*args, **kwargs)

    named = {name: one.annotation for name, one in signature.parameters.items() if one.annotation is not one.empty}
    cast(Any, called).__signature__, called.__annotations__ = signature, named
    called.__qualname__ = getattr(tool, "__qualname__", type(tool).__qualname__)
    return called


def reasons(error: ValidationError) -> str:
    """pydantic's errors as one line, each with its place."""
    found = error.errors(include_url=False, include_context=False)
    return "; ".join(f"pydantic at {'.'.join(map(str, one['loc'])) or 'the top'}: {one['msg']}" for one in found)


class _Writable(GenerateJsonSchema):
    """Generates JSON Schemas that allow only what the type accepts.

    pydantic's own generator allows any string for a Decimal, any key where a dictionary has a pattern for its keys, and
    takes `Unpack[...]` of keyword arguments for the type of each one.
    """

    def arguments_schema(self, schema: core_schema.ArgumentsSchema) -> dict[str, Json]:
        made = super().arguments_schema(schema)
        unpacked = schema.get("var_kwargs_schema")
        if unpacked is None or schema.get("var_kwargs_mode") != "unpacked-typed-dict":
            return made
        words = self.resolve_ref_schema(self.generate_inner(unpacked))
        required = [*made.get("required", ()), *words.get("required", ())]
        properties = {**made.get("properties", {}), **words.get("properties", {})}
        return {**made, "properties": properties, "required": required, "additionalProperties": False}

    def dict_schema(self, schema: core_schema.DictSchema) -> dict[str, Json]:
        made = super().dict_schema(schema)
        return {"additionalProperties": False, **made} if "patternProperties" in made else made

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> dict[str, Json]:
        made = super().decimal_schema(schema)
        return next((part for part in made.get("anyOf", ()) if part.get("type") == "number"), made)


def _closed(schema: Json) -> Json:
    """`schema` with `additionalProperties: false` on its objects, where they do not say otherwise."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed
