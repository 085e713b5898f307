"""One fully resolved call: validates the caller's arguments and turns them into a `Call` for the engine.

Knows arguments, schemas, settings and plans. Does not know engines or sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Unpack

from trimode.engine.errors import RequestError

from ..conversation import checked_ids, checked_messages, checked_text
from ..errors import PolicyError, SchemaError, StepError, shown
from ..json_schema import Formats
from ..schema import Schema, Target, TurnTarget, called, held_to, schema_of, shapes_of, turn_target
from ..selection import NAMES, STEP_KINDS, DecodePlan, Layer, SettingArguments, Settings, StepContext, StepKind, resolve
from .choice import candidates_of
from .naming import current_naming
from .turns import Segments, planned_turn

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
    arguments. Without `mode`, the session, `using` and the policy file choose it, else the
    package's table by `step`. All other keys are the options of `Settings`; None leaves an option unset.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A prompt (`prompt`, raw; `prompt_ids`; or `messages` for the chat template), a plan and an optional schema.

    `continued`: the output continues the last message, an assistant's. `notes`: changes made before the engine gets
    the call. `retried`: an earlier attempt violated a rule that the grammar does not enforce, so the guarantee of this
    one is "checked" even if its grammar enforces the whole schema. `max_passes`, `max_seconds`: what is left of the
    session's budget. `turn`, `segments`: of a turn, the parts that it may have and the plan of each kind of them.
    """

    step: str
    kind: StepKind
    plan: DecodePlan
    prompt: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
    continued: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    schema: Target | None = None
    turn: TurnTarget | None = None
    segments: Segments = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    retried: bool = False
    max_passes: int | None = None
    max_seconds: float | None = None

    @property
    def candidates(self) -> tuple[str, ...]:
        """The strings that a choice step chooses from. Raises StepError if the schema lists none."""
        return candidates_of(self.schema)

    @property
    def used_ids(self) -> frozenset[str]:
        """Ids of the tool calls in the conversation."""
        return frozenset(str(one.get("id")) for message in self.messages for one in message.get("tool_calls") or ())

    @property
    def characters(self) -> int:
        """Number of characters of the prompt or messages that have to be tokenized."""
        return len(self.prompt or "") + sum(len(message["content"]) for message in self.messages)


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
    step, tools, schema = options.get("step"), tools_of(options.get("tools"), f"{name}()"), options.get("schema")
    if step is not None and step not in STEP_KINDS:
        raise PolicyError(f"{name}(): unknown step kind {step!r}; known: {', '.join(STEP_KINDS)}")
    target, shapes = held_to(schema), shapes_of(tools)
    if (formats := options.get("formats")) is not None:
        if schema is None:
            raise SchemaError(f"{name}(): formats={formats!r} and no schema; formats belong to one")
        target = schema_of(schema, formats=formats)
    choice, parallel = options.get("tool_choice"), options.get("parallel_tool_calls")
    named = current_naming()
    kind = _kind_given(step, (choice, parallel), name) or _kind(target, bool(tools))
    is_turn = kind == "turn"
    check_tool_call(kind, target, bool(tools), f"{name}()")
    beside = tools and target is not None and (step or named.kind) is None and kind not in ("tool_call", "turn")
    notes = [_TOOLS_AND_SCHEMA] if beside else []
    if given.retries is not None and (given.guarantee != "checked" or name in ("stream", "astream")):
        why = "guarantee='checked' alone tries again" if given.guarantee != "checked" else "a stream is one attempt"
        notes.append(f"retries={given.retries} has no part in this call: {why}")
    if target is None and kind == "tool_call":
        target = called(shapes)
    held: dict[str, Any] = {"schema": target}
    layers = [("call argument", given)]
    called_as = named.step or name
    if is_turn:
        parallel = True if parallel is None else parallel
        held = {"turn": turn_target(shapes, target, choice or "auto", parallel, f"{name}()")}
        context = StepContext(kind=kind, name=called_as)
        plan, held["segments"] = planned_turn(context, held["turn"], lambda part: planner(part, layers))
    else:
        context = StepContext(kind=kind, name=called_as, schema_sha256=None if target is None else target.sha256)
        plan = planner(context, layers)
    call = Call(
        step=called_as,
        kind=kind,
        plan=plan,
        tools=tuple(shape.described for shape in shapes),
        notes=tuple(notes),
        **held,
        **_prompt_fields(name, prompt, options),
    )
    if kind == "choice":
        candidates_of(call.schema)
    return call


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


_TOOLS_AND_SCHEMA: Final = "tools were shown to the model, and the output is held to the schema beside them"


def _kind_given(step: StepKind | None, calling: tuple[Any, Any], name: str) -> StepKind | None:
    """Returns the kind that the arguments or `using` give, None if it is open. `calling`: the arguments of a turn.

    Raises StepError where they contradict each other.
    """
    kind = step or current_naming().kind
    if kind != "turn" and calling != (None, None):
        if kind is not None:
            origin = f"step={kind!r}" if step else f"using(kind={kind!r}) around it"
            raise StepError(f"{name}(): tool_choice and parallel_tool_calls belong to a turn; leave out {origin}")
        return "turn"
    return kind


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
) -> Call:
    """Returns the call of `Engine.choice`. Raises RequestError unless options are distinct, non-empty strings."""
    if isinstance(options, str | bytes | Mapping) or not isinstance(options, Iterable):
        raise RequestError(f"options={shown(options)}: expected a list of strings")
    listed = [checked_text(option, f"options[{index}]") for index, option in enumerate(options)]
    if len(set(listed)) < len(listed) or not listed or not all(listed):
        raise RequestError(f"options={shown(listed)}: expected non-empty strings, at least one, each of them once")
    schema = {"enum": listed}
    return call_of(
        "choice", prompt, planner, messages=messages, prompt_ids=prompt_ids, tools=tools, step="choice", schema=schema
    )
