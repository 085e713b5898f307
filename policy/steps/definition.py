"""What is known of a step when it is defined: its name, kind, tools, schema and settings.

Knows annotations and schemas, each compiled once here to see that it can be held. Does not know sessions' calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, get_origin, get_type_hints

from ..calls import candidates_of, check_tool_call, overrides
from ..errors import StepError, shown
from ..grammar import check, relaxed
from ..json_schema import Formats
from ..schema import (
    Target,
    TextTarget,
    ToolCall,
    Turn,
    TurnTarget,
    described,
    held_to,
    schema_of,
    shapes_of,
    tool_schema,
    turn_target,
)
from ..selection import Layer, Settings, StepKind
from .prompt_text import check_template

NOTHING: Final = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """A step as defined: what does not depend on the call's arguments or session."""

    name: str
    kind: StepKind
    tools: tuple[dict[str, Any], ...]
    schema: Target | None
    decorated: Settings
    turn: TurnTarget | None = None
    called: Settings = NOTHING

    def layers(self) -> list[Layer]:
        return [
            (f"decorator of step {self.name!r}", self.decorated),
            *overrides(),
            ("call argument", self.called),
        ]


def define(
    function: Callable[..., Any],
    kind: StepKind | None,
    name: str | None,
    tools: Sequence[Any],
    target: Any,
    settings: Settings,
    formats: Formats | None = None,
    calling: Calling = (None, None),
) -> StepSpec:
    """Returns the step's kind, schema and settings. The schema is compiled once, so that one that cannot be enforced is
    refused here. `calling`: of a turn."""
    _check_function(function)
    returns = _return_type(function)
    text = returns is str or (get_origin(returns) is Annotated and isinstance(schema_of(returns), TextTarget))
    chosen: StepKind = kind or ("prose" if text else _KINDS.get(returns, "json"))
    if (chosen == "turn") != (returns is Turn):
        raise StepError("a turn is what it returns: @step('turn', tools=[...]) goes above a function '-> Turn'")
    if chosen != "turn" and calling != (None, None):
        raise StepError(f"tool_choice and parallel_tool_calls belong to a turn, not to a step of kind {chosen!r}")
    if chosen == "turn":
        return _turn(function, name, tools, _held(target, formats), settings, calling)
    schema = _schema(chosen, returns, tools, formats) if target is None else _held(target, formats)
    check_tool_call(chosen, schema, bool(tools), "step()")
    if chosen == "choice":
        candidates_of(schema)
    elif schema is not None:
        (relaxed if settings.guarantee == "checked" else check)(schema)
    check_template(function)
    return StepSpec(
        name=name or function.__name__, kind=chosen, tools=described(tools), schema=schema, decorated=settings
    )


Calling = tuple[Any, bool | None]
"""The `tool_choice` and `parallel_tool_calls` of a turn, None where not given."""
_KINDS: Final[dict[Any, StepKind]] = {ToolCall: "tool_call", Turn: "turn"}
"""Kinds of steps by what they return."""


def _turn(
    function: Callable[..., Any],
    name: str | None,
    tools: Sequence[Any],
    answer: Target | None,
    settings: Settings,
    calling: Calling,
) -> StepSpec:
    choice, parallel = calling
    turn = turn_target(shapes_of(tools), answer, choice or "auto", True if parallel is None else parallel, "step()")
    for part in (turn.calls, turn.answer):
        if part is not None:
            (relaxed if settings.guarantee == "checked" else check)(part)
    check_template(function)
    return StepSpec(
        name=name or function.__name__,
        kind="turn",
        tools=described(tools),
        schema=None,
        decorated=settings,
        turn=turn,
    )


def listed(kind: StepKind | None, schema: Any, choices: Sequence[str]) -> dict[str, Any]:
    if kind != "choice" or schema is not None:
        raise StepError('choices belong to @step("choice", choices=[...]), without a schema beside them')
    if isinstance(choices, str) or not all(isinstance(choice, str) for choice in choices):
        raise StepError(f"choices={shown(choices)}: expected a list of strings")
    return {"enum": list(choices)}


def _return_type(function: Callable[..., Any]) -> Any:
    try:
        return get_type_hints(function, include_extras=True).get("return", str)
    except Exception as error:  # whatever an annotation raises when it is read
        raise StepError(
            f"step {function.__name__!r}: {error}; annotations must be resolvable where the function is defined, "
            "so put the types that it names at module level"
        ) from None


def _schema(kind: StepKind, returns: Any, tools: Sequence[Any], formats: Formats | None) -> Target | None:
    if kind == "tool_call":
        if not tools:
            raise StepError('a tool_call step needs tools: @step("tool_call", tools=[...])')
        schema: Target = tool_schema(tools)
        return schema if formats is None else schema_of(schema, formats=formats)
    if returns is str and kind != "json":
        return None if formats is None else _held(None, formats)
    return schema_of(returns, formats=formats)


def _held(target: Any, formats: Formats | None) -> Target | None:
    if formats is None:
        return held_to(target)
    if target is None:
        raise StepError(f"formats={formats!r} and no schema; formats belong to one")
    return schema_of(target, formats=formats)


def _check_function(function: Any) -> None:
    if isinstance(function, classmethod | staticmethod):
        raise StepError("@step goes below @classmethod and @staticmethod, next to the function")
    if not callable(function) or not hasattr(function, "__name__"):
        raise StepError(f"{shown(function)} is no function; @step goes above a def")
