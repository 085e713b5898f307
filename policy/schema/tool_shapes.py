"""Tools of every published shape as name, description and parameters.

Knows the shapes of OpenAI (chat, responses), Anthropic, Gemini, Bedrock and MCP, objects with the same attributes, and
typed functions, methods, partials and classes. Does not know grammars. Other shapes are refused, because parameters
under an unknown key would be ignored and the model could not write the arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from pydantic import BaseModel, TypeAdapter

from ..errors import SchemaError, shown
from ..json_schema import pointer
from .gemini import lowered, speaks_gemini
from .python_types import function_of, typed

Json = Any
Tool = Mapping[str, Json] | Callable[..., Any] | object
NOTHING: Final[dict[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}
"""The parameters of a tool without arguments."""
_PARAMETERS: Final = (
    "parameters", "input_schema", "inputSchema", "parametersJsonSchema", "parameters_json_schema", "args_schema",
)  # fmt: skip
_SEVERAL: Final = ("functionDeclarations", "function_declarations", "functions", "tools")
_RETURNS: Final = frozenset(
    ("outputSchema", "output_schema", "response", "responseJsonSchema", "response_json_schema", "returns", "output")
)
"""Keys with schemas of a tool's results."""


@dataclass(frozen=True, slots=True)
class ToolShape:
    """A tool as name, description and parameters.

    `pointer`: the place of the parameters in the tool as given. `adapter`: for a class, which validates calls too.
    """

    name: str
    description: str
    parameters: dict[str, Json]
    pointer: str = "/parameters"
    adapter: TypeAdapter[Any] | None = None

    @property
    def described(self) -> dict[str, Json]:
        """The description for chat templates."""
        return {"name": self.name, "description": self.description, "parameters": self.parameters}


def shapes_of(tools: Sequence[Tool]) -> list[ToolShape]:
    """The tools in order. Raises SchemaError for an unknown shape, or parameters that are no object."""
    return [shape for tool in tools for shape in _shapes(tool, "")]


def names_of(tool: Tool) -> list[str]:
    """Names that a call may use for `tool`; several for a list of declarations."""
    if not isinstance(tool, Mapping) and callable(tool) and _held(tool) is None:
        return [_callable_name(tool)]
    return [shape.name for shape in _shapes(tool, "")]


def is_function(tool: Tool) -> bool:
    """Whether a tool can be run."""
    return callable(tool) and not isinstance(tool, Mapping)


def _shapes(tool: Tool, at: str, omits: bool = False) -> Iterator[ToolShape]:
    """The shapes of one tool. `at`: its pointer in the tool as given; `omits`: a tool without parameters takes none."""
    held = tool if isinstance(tool, Mapping) else _held(tool)
    if held is None:
        yield _of_callable(tool)
        return
    for key in _SEVERAL:
        if isinstance(listed := held.get(key), Sequence) and not isinstance(listed, str) and "name" not in held:
            for index, one in enumerate(listed):
                yield from _shapes(one, f"{at}{pointer((key, index))}", key != "tools")
            return
    for key in ("function", "toolSpec"):
        if isinstance(held.get(key), Mapping):
            yield _of_mapping(held[key], f"{at}/{key}", key == "function")
            return
    yield _of_mapping(held, at, omits or (held.get("type") == "function" and "function" not in held))


def _held(tool: Any) -> Mapping[str, Json] | None:
    """The attributes of an object that describes a tool, such as those of MCP clients; None for other objects."""
    if inspect.isclass(tool) or not isinstance(getattr(tool, "name", None), str):
        return None
    found = {key: getattr(tool, key) for key in _PARAMETERS if hasattr(tool, key)}
    found = {key: value for key, value in found.items() if inspect.isclass(value) or not callable(value)}
    filled = {key: value for key, value in found.items() if value is not None} or dict.fromkeys(found)
    if not found:
        return None
    return {"name": tool.name, "description": getattr(tool, "description", None) or "", **filled}


def _of_mapping(held: Mapping[str, Json], at: str, omits: bool) -> ToolShape:
    name, description = held.get("name"), held.get("description")
    if not isinstance(name, str) or not name:
        raise SchemaError(f"a tool needs a name, a description and parameters, found {shown(dict(held))}")
    keys = [key for key in _PARAMETERS if key in held]
    if len(keys) > 1 and len([key for key in keys if held[key] is not None]) == 1:
        keys = [key for key in keys if held[key] is not None]
    if len(keys) > 1:
        raise SchemaError(f"tool {name!r}: {keys[0]!r} and {keys[1]!r} both say what it takes; leave one out")
    for key, value in held.items():
        if key not in (*keys, *_RETURNS) and _looks_like_parameters(value):
            raise SchemaError(
                f"tool {name!r}: {key!r} looks like a schema, and no dialect has parameters there; call it 'parameters'"
            )
    if not keys and not omits:
        raise SchemaError(
            f"tool {name!r} does not say what it takes; give it 'parameters' (a JSON Schema of type object), "
            f"'parameters': {{}} where it takes nothing; found the keys {', '.join(map(repr, held))}"
        )
    key = keys[0] if keys else "parameters"
    given, place = held.get(key), f"{at}/{key}"
    if key == "inputSchema" and isinstance(given, Mapping) and set(given) == {"json"}:  # Bedrock's
        given, place = given["json"], f"{place}/json"
    parameters, adapter = _parameters(name, given)
    return ToolShape(name, "" if description is None else str(description), parameters, place, adapter)


def _looks_like_parameters(value: Json) -> bool:
    if not isinstance(value, Mapping):
        return False
    kind = value.get("type")
    return (isinstance(kind, str) and kind.lower() == "object") or isinstance(value.get("properties"), Mapping)


def _parameters(name: str, given: Any) -> tuple[dict[str, Json], TypeAdapter[Any] | None]:
    """The parameters as the schema of an object, and the adapter where they are a class. Raises SchemaError."""
    adapter: TypeAdapter[Any] | None = None
    if inspect.isclass(given):
        given, adapter = typed(given)
    elif isinstance(given, BaseModel):
        given = given.model_dump(mode="json", by_alias=True, exclude_none=True)
    if given is None or given == {}:
        return dict(NOTHING), adapter
    if isinstance(given, Mapping) and speaks_gemini(given):
        given = lowered(given)
    kind = given.get("type", "object") if isinstance(given, Mapping) else None
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise SchemaError(f"tool {name!r}: parameters must be a JSON Schema of type object, found {shown(given)}")
    # Arguments are always an object, so other types are dropped.
    given = {key: value for key, value in given.items() if key != "nullable"}
    return {**given, "type": "object"} if "type" in given else {"type": "object", **given}, adapter


def _of_callable(tool: Any) -> ToolShape:
    if not callable(tool):
        raise SchemaError(
            f"a tool needs a name, a description and parameters, found {shown(tool)}; pass a function, class or dict"
        )
    name = _callable_name(tool)
    document, adapter = typed(function_of(runnable(tool)))
    if document.get("type") != "object" and "$ref" not in document:
        raise SchemaError(f"tool {name!r}: its arguments must have names, found {shown(document)}")
    return ToolShape(name, _doc(tool), document, adapter=adapter if inspect.isclass(tool) else None)


def runnable(tool: Callable[..., Any]) -> Callable[..., Any]:
    """The object with the signature of `tool`: its `__call__` method, or the function itself."""
    plain = inspect.isclass(tool) or inspect.isroutine(tool) or isinstance(tool, partial)
    return tool if plain else cast(Any, tool).__call__


def _callable_name(tool: Any) -> str:
    while isinstance(tool, partial):
        tool = tool.func
    return str(getattr(tool, "__name__", None) or type(tool).__name__)


def _doc(tool: Any) -> str:
    while isinstance(tool, partial):
        tool = tool.func
    if inspect.isclass(tool):
        # Not inherited, because the docstring of pydantic's or another base does not describe the tool.
        return inspect.cleandoc(tool.__doc__ or "")
    if inspect.isroutine(tool):
        return inspect.getdoc(tool) or ""
    return inspect.cleandoc(type(tool).__call__.__doc__ or type(tool).__doc__ or "")
