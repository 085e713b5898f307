"""Keyword arguments of calls: checked, completed by a plan, and made a `Call`.

Knows arguments, schemas, settings and plans. Does not know engines or sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Unpack

from trimode.engine.errors import RequestError

from ..conversation import checked_ids, checked_messages, checked_text
from ..errors import PolicyError, SchemaError, StepError, shown
from ..json_schema import Formats
from ..schema import Schema, Target, ToolShape, TurnTarget, called, held_to, schema_of, shapes_of, turn_target
from ..selection import (
    NAMES,
    STEP_KINDS,
    DecodePlan,
    Layer,
    SettingArguments,
    Settings,
    StepContext,
    StepKind,
    current_naming,
    kind_given,
    resolve,
)
from ..turns import planned_turn
from .call import Call
from .choice import candidates_of

PlanOf = Callable[[StepContext], DecodePlan]
"""Function that returns the plan of a call, or of a segment of it, from its context."""
Planner = Callable[[StepContext, Sequence[Layer]], DecodePlan]
"""Function that returns the plan of a call, from its context and the settings given with the call."""


class CallOptions(SettingArguments, total=False):
    """Keyword arguments of `generate`, `stream` and their async versions, besides a raw prompt.

    `messages`, in OpenAI's format, are rendered by the checkpoint's chat template; with `continue_final_message` the
    output continues the last message, which must be an assistant's. `prompt_ids`: a prompt as token ids, control tokens
    included. `schema`: a type, JSON Schema (also as a `response_format`), tool list, Regex, Choice or Lark that
    constrains the output; `formats`: "assert" refuses formats that cannot be checked, "annotate" ignores them with a
    note. `tools`, as functions, types or dicts of the common APIs, are shown to the model; with step="tool_call" and no
    schema they are also the schema. With `tool_choice` ("auto", "none", "required" or a tool's name) or step="turn" the
    output is a turn: prose and calls, several unless `parallel_tool_calls` is false; `schema` then constrains what is
    written instead of calls. Without `step`, the kind is that of `using(kind=...)`, or follows from the other
    arguments; without `mode`, the session, `using` and the policy file choose it, else the package's table by `step`.
    `cache_scope`: prefixes of prompts are reused only among calls of the same scope, such as those of one tenant; it
    changes no token and is not recorded. All other keys are the options of `Settings`; None leaves an option unset.
    """

    messages: Sequence[Mapping[str, Any]] | None
    prompt_ids: Sequence[int] | None
    continue_final_message: bool
    tools: Sequence[Any]
    schema: Any
    formats: Formats | None
    step: StepKind | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    cache_scope: str | None


DECIDE: Final = "decide"
"""Name of the step of decisions, which policies and records see."""


def by_package(context: StepContext, given: Sequence[Layer]) -> DecodePlan:
    """Returns the plan by the package's table alone, without any policy."""
    return resolve(context, (), given)


def call_of(name: str, prompt: str | None, planner: Planner = by_package, /, **options: Unpack[CallOptions]) -> Call:
    """Returns the call that the arguments describe; `name`: the public function that received them.

    Raises PolicyError, SchemaError, StepError or RequestError for arguments that cannot be used.
    """
    known = {*CallOptions.__annotations__}
    if unknown := sorted(set(options) - known):
        raise PolicyError(f"{name}(): unknown argument {unknown[0]!r}; known: prompt, {', '.join(sorted(known))}")
    given = Settings.of(
        {key: value for key, value in options.items() if key in NAMES and value is not None}, f"{name}()"
    )
    shapes = shapes_of(tools_of(options.get("tools"), f"{name}()"))
    kind, target = _held(name, options, shapes)

    def plan_of(context: StepContext) -> DecodePlan:
        return planner(context, [("call argument", given)])

    turn, step = _turn(name, options, target, shapes) if kind == "turn" else None, current_naming().step or name
    return Call(
        step=step,
        kind=kind,
        tools=tuple(shape.described for shape in shapes),
        notes=tuple(_notes(name, options, given, kind, target)),
        **(_planned(step, kind, target, plan_of) if turn is None else _planned_turn(step, turn, plan_of)),
        cache_scope=checked_scope(options.get("cache_scope"), name),
        **_prompt_fields(name, prompt, options),
    )


def _held(name: str, options: CallOptions, shapes: Sequence[ToolShape]) -> tuple[StepKind, Target | None]:
    """Returns the kind of a call, and what constrains its output besides the tools of a turn."""
    step, formats, target = options.get("step"), options.get("formats"), held_to(options.get("schema"))
    if step is not None and step not in STEP_KINDS:
        raise PolicyError(f"{name}(): unknown step kind {step!r}; known: {', '.join(STEP_KINDS)}")
    if formats is not None:
        if options.get("schema") is None:
            raise SchemaError(f"{name}(): formats={formats!r} and no schema; formats belong to one")
        target = schema_of(options.get("schema"), formats=formats)
    chooses = any(options.get(key) is not None for key in ("tool_choice", "parallel_tool_calls"))
    kind = kind_given(step, chooses, name) or _kind(target, bool(shapes))
    check_tool_call(kind, target, bool(shapes), f"{name}()")
    return kind, called(list(shapes)) if target is None and kind == "tool_call" else target


def _planned(name: str, kind: StepKind, target: Target | None, plan_of: PlanOf) -> dict[str, Any]:
    """Returns the schema and plan of a call, as fields of `Call`."""
    if kind == "choice":
        candidates_of(target)
    context = StepContext(kind=kind, name=name, schema_sha256=None if target is None else target.sha256)
    return {"schema": target, "plan": plan_of(context)}


def _planned_turn(name: str, turn: TurnTarget, plan_of: PlanOf) -> dict[str, Any]:
    """Returns the parts and plans of a turn, as fields of `Call`."""
    plan, segments = planned_turn(StepContext(kind="turn", name=name), turn, plan_of)
    return {"turn": turn, "plan": plan, "segments": segments}


def _turn(name: str, options: CallOptions, answer: Target | None, shapes: Sequence[ToolShape]) -> TurnTarget:
    choice, parallel = options.get("tool_choice"), options.get("parallel_tool_calls")
    return turn_target(shapes, answer, choice or "auto", True if parallel is None else parallel, f"{name}()")


def _notes(name: str, options: CallOptions, given: Settings, kind: StepKind, target: Target | None) -> Iterator[str]:
    """Yields notes on arguments that were taken in one of several ways, or that have no part in the call."""
    beside = options.get("tools") and target is not None and (options.get("step") or current_naming().kind) is None
    if beside and kind not in ("tool_call", "turn"):
        yield "tools were shown to the model, and the output is held to the schema beside them"
    if kind == "turn" and target is not None and options.get("tool_choice") not in (None, "auto", "none"):
        yield f"the schema has no part in this turn: tool_choice={shown(options.get('tool_choice'))} leaves calls alone"
    if given.retries is not None and (given.guarantee != "checked" or name in ("stream", "astream")):
        why = "guarantee='checked' alone tries again" if given.guarantee != "checked" else "a stream is one attempt"
        yield f"retries={given.retries} has no part in this call: {why}"


def checked_scope(given: Any, name: str) -> str | None:
    """Returns `cache_scope`. Raises RequestError unless it is a string or None."""
    if not isinstance(given, str | None):
        raise RequestError(f"{name}(): cache_scope={shown(given)}: expected a string or None")
    return given


def tools_of(tools: Any, origin: str) -> tuple[Any, ...]:
    """Returns the list of tools as a tuple. Raises SchemaError for anything else, such as a single tool."""
    if tools is None:
        return ()
    if isinstance(tools, str | bytes | Mapping) or callable(tools) or not isinstance(tools, Iterable):
        raise SchemaError(f"{origin}: tools={shown(tools)}: expected a list of tools, also where there is one")
    return tuple(tools)


def check_tool_call(kind: StepKind, target: Target | None, has_tools: bool, origin: str) -> None:
    """Raises StepError for a tool_call step without tools, or with a schema that is not made of its tools."""
    if kind != "tool_call":
        return
    if target is None and not has_tools:
        raise StepError(f"{origin}: a tool_call step needs tools: tools=[...]")
    if has_tools and target is not None and not (isinstance(target, Schema) and target.tools):
        raise StepError(
            f"{origin}: a tool_call is held to its tools, and a schema beside them says something else; leave one of "
            "them out, or make it a step of kind 'json'"
        )


def _kind(target: Target | None, has_tools: bool) -> StepKind:
    """Returns the kind of a step for which none was given."""
    if target is None:
        return "tool_call" if has_tools else "prose"
    if not isinstance(target, Schema):
        return "prose"
    return "tool_call" if target.tools and has_tools else "json"


def _prompt_fields(name: str, prompt: Any, options: CallOptions) -> dict[str, Any]:
    """Returns the fields of `Call` that hold the prompt: text, ids or messages, and whether the last message continues.

    Raises RequestError unless exactly one of the three is given and valid.
    """
    messages, ids, continued = options.get("messages"), options.get("prompt_ids"), options.get("continue_final_message")
    given = {"prompt": prompt, "prompt_ids": ids, "messages": messages}
    named = [f"{key}=" for key, value in given.items() if value is not None]
    if len(named) != 1:
        raise RequestError(
            f"{name}(): pass either prompt= or messages= or prompt_ids=, not {' and '.join(named) or 'none'}"
        )
    if not isinstance(continued, bool | None):
        raise RequestError(f"{name}(): continue_final_message={shown(continued)}: expected true or false")
    found: dict[str, Any] = {"continued": bool(continued)}
    if messages is not None:
        found["messages"] = checked_messages(messages)
    elif ids is not None:
        found["prompt_ids"] = checked_ids(ids)
    else:
        found["prompt"] = checked_text(prompt, "prompt")
    if continued:
        _check_continued(found.get("messages", ()), options)
    return found


def _check_continued(messages: Sequence[Mapping[str, Any]], options: CallOptions) -> None:
    """Raises RequestError where the output cannot continue the last message as plain text."""
    last: Mapping[str, Any] = messages[-1] if messages else {}
    if last.get("role") != "assistant" or not last.get("content") or "tool_calls" in last:
        raise RequestError(
            "continue_final_message: the last of messages= has to be an assistant's, with a text to go on from"
        )
    conflicts = [key for key in ("schema", "max_thinking_tokens") if options.get(key) is not None]
    if conflicts or options.get("step") in ("tool_call", "choice", "turn") or options.get("tools"):
        what = conflicts[0] if conflicts else "step and tools"
        raise RequestError(
            f"continue_final_message goes on with plain text: {what} would begin anew; leave one of them out"
        )


def choice_call(
    options: Sequence[str],
    prompt: str | None,
    messages: Sequence[Mapping[str, Any]] | None,
    tools: Sequence[Any],
    prompt_ids: Sequence[int] | None = None,
    planner: Planner = by_package,
    cache_scope: str | None = None,
) -> Call:
    """Returns the call of `Engine.choice`. Raises RequestError unless options are distinct, non-empty strings."""
    if isinstance(options, str | bytes | Mapping) or not isinstance(options, Iterable):
        raise RequestError(f"options={shown(options)}: expected a list of strings")
    listed = [checked_text(option, f"options[{index}]") for index, option in enumerate(options)]
    if len(set(listed)) < len(listed) or not listed or not all(listed):
        raise RequestError(f"options={shown(listed)}: expected non-empty strings, at least one, each of them once")
    schema = {"enum": listed}
    return call_of(
        "choice",
        prompt,
        planner,
        messages=messages,
        prompt_ids=prompt_ids,
        tools=tools,
        step="choice",
        schema=schema,
        cache_scope=cache_scope,
    )


def decide_call(given: Any, tools: Sequence[dict[str, Any]], planner: Planner, cache_scope: Any) -> Call:
    """Returns the call of `Engine.decide`, without its questions. Raises RequestError for input that cannot be used."""
    if isinstance(given, str):
        messages: Any = [{"role": "user", "content": checked_text(given, "input")}]
    elif isinstance(given, Mapping) or not isinstance(given, Sequence):
        raise RequestError(f"input={shown(given)}: expected a text or a list of messages")
    else:
        messages = given
    step = current_naming().step or DECIDE
    return Call(
        step=step,
        kind="choice",
        plan=planner(StepContext(kind="choice", name=step), []),
        messages=checked_messages(messages, "input"),
        tools=tuple(tools),
        cache_scope=checked_scope(cache_scope, DECIDE),
    )
