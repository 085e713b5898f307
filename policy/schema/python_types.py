"""Python types as JSON Schemas, with the adapter that builds the value. Knows pydantic. Does not know grammars."""

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
    """The schema of what may be written for a type or a typed function. Raises SchemaError where it is none."""
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
"""What reading annotations raises that are texts, and names nobody finds."""


def function_of(tool: Callable[..., Any]) -> Callable[..., Any]:
    """A method, a partial or another object that can be called as a function with the same arguments and their types.

    pydantic looks up names in annotations where a function or class was defined, and nowhere for other objects. Raises
    SchemaError where the object does not say what it takes.
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
    """What pydantic found wrong, place by place."""
    found = error.errors(include_url=False, include_context=False)
    return "; ".join(f"pydantic at {'.'.join(map(str, one['loc'])) or 'the top'}: {one['msg']}" for one in found)


class _Writable(GenerateJsonSchema):
    """JSON Schemas whose every text the type takes: pydantic's own lets a Decimal be any string, a dictionary with a
    pattern for its keys have others, and takes the type of `**words: Unpack[...]` for that of each word."""

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
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed
